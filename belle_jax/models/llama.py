"""LLaMA 1, 2, 3 and their like: RMS norm, rotary positions, grouped-query heads, gated MLP."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax import sharding
from belle_jax.config import Architecture, Rope
from belle_jax.models.attention import attend
from belle_jax.models.decoder import Decoder, Execution
from belle_jax.models.layers import ACTIVATIONS, Block, Cache, Context, Linear, RMSNorm

HEADS = ('batch', 'length', 'heads', 'head_dim')


class LlamaAttention(nnx.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        self.architecture, self.execution = a, execution

        def heads(count, axis):
            shape, axes = (a.embed, count, a.head_dim), ('embed', axis, 'head_dim')
            return Linear('btd,dnh->btnh', shape, axes, layers, 1 if a.attention_bias else None)

        self.query = heads(a.q_heads, 'q_heads')
        self.key = heads(a.kv_heads, 'kv_heads')
        self.value = heads(a.kv_heads, 'kv_heads')
        shape, axes = (a.q_heads, a.head_dim, a.embed), ('q_heads', 'head_dim', 'embed')
        self.out = Linear('btnh,nhd->btd', shape, axes, layers, 2 if a.attention_bias else None)

    def __call__(
        self, x_btd: jax.Array, context: Context, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        q_btnh = sharding.constrain(self.query(x_btd), HEADS)
        k_btkh = sharding.constrain(self.key(x_btd), HEADS)
        v_btkh = sharding.constrain(self.value(x_btd), HEADS)
        q_btnh = rotate(q_btnh, context.cos_bth, context.sin_bth)
        k_btkh = rotate(k_btkh, context.cos_bth, context.sin_bth)
        out_btnh, cache = attend(q_btnh, k_btkh, v_btkh, context, cache, self.execution, key)
        return self.out(out_btnh), cache


class LlamaMLP(nnx.Module):
    """Gated feed-forward layer."""

    def __init__(self, a: Architecture, layers: int):
        self.activation = a.activation
        bias_from = 1 if a.mlp_bias else None

        up = 'btd,df->btf', (a.embed, a.mlp), ('embed', 'mlp'), layers, bias_from
        self.gate, self.up = Linear(*up), Linear(*up)
        self.down = Linear('btf,fd->btd', (a.mlp, a.embed), ('mlp', 'embed'), layers, bias_from)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        gate_btf = ACTIVATIONS[self.activation](self.gate(x_btd))
        f_btf = sharding.constrain(gate_btf * self.up(x_btd), ('batch', 'length', 'hidden'))
        return self.down(f_btf)


class LlamaBlock(Block):
    """One layer, or a stack of them."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        super().__init__(RMSNorm, a, execution, layers)
        self.attention = LlamaAttention(a, execution, layers)
        self.mlp = LlamaMLP(a, layers)


class Llama(Decoder):
    """A LLaMA."""

    block, norm = LlamaBlock, RMSNorm

    def context(
        self,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        rope_lengths: jax.Array | None = None,
    ) -> Context:
        """Positions and segments, and the angles by which queries and keys are rotated."""
        a, lengths = self.architecture, None
        if a.rope.kind == 'dynamic':
            if rope_lengths is not None:
                lengths = rope_lengths[:, None]
            elif segment_ids is not None:
                lengths = segment_lengths(positions, segment_ids)
            else:
                lengths = positions.max(axis=1, keepdims=True) + 1
        frequencies = rope_frequencies(a.rope, a.head_dim, a.max_position, lengths)
        angles_bth = positions[..., None].astype(jnp.float32) * frequencies
        return Context(positions, segment_ids, jnp.cos(angles_bth), jnp.sin(angles_bth))


def rope_frequencies(
    rope: Rope, head_dim: int, max_position: int, lengths: jax.Array | None
) -> jax.Array:
    """Angles per position of each rotary pair.

    Args:
        rope: The kind and its numbers.
        head_dim: H.
        max_position: The pretraining context in tokens; `dynamic` stretches beyond it.
        lengths: int [B, T] or [B, 1], the length of the text that a token is part of. Only
            `dynamic` reads it.
    Returns:
        float32 [H/2], or [B, T or 1, H/2] for `dynamic`.
    Source: Su et al., 2021 (RoPE); the kinds as transformers 5 computes them.
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    if rope.kind == 'dynamic':
        assert lengths is not None
        longest = jnp.maximum(lengths, max_position).astype(jnp.float32)[..., None]
        stretch = rope.factor * longest / max_position - (rope.factor - 1)
        theta = rope.theta * stretch ** (head_dim / (head_dim - 2))
        return 1.0 / theta**exponents
    frequencies = 1.0 / rope.theta**exponents
    if rope.kind == 'linear':
        return frequencies / rope.factor
    if rope.kind == 'llama3':
        wavelengths = 2 * math.pi / frequencies
        low = rope.original_max_position / rope.low_freq_factor
        high = rope.original_max_position / rope.high_freq_factor
        blend = (rope.original_max_position / wavelengths - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        medium = (1 - blend) * frequencies / rope.factor + blend * frequencies
        stretched = jnp.where(wavelengths > low, frequencies / rope.factor, medium)
        return jnp.where(wavelengths < high, frequencies, stretched)
    return frequencies


def rotate(x_btnh: jax.Array, cos_bth: jax.Array, sin_bth: jax.Array) -> jax.Array:
    """Turns the pairs (i, i + H/2) of each head by a position's angles.

    Args:
        x_btnh: Queries or keys [B, T, N, H].
        cos_bth: float32 [B, T, H/2].
        sin_bth: float32 [B, T, H/2].
    Returns:
        [B, T, N, H] in the dtype of x.
    Source: Hugging Face's layout of LLaMA, in which pairs are half a head apart.
    """
    first, second = jnp.split(x_btnh.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_bth[:, :, None, :], sin_bth[:, :, None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_btnh.dtype)


def segment_lengths(positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """The length in tokens of the segment that each token is part of.

    Args:
        positions: int [B, T], restarting in each segment.
        segment_ids: int [B, T], between 0 and T.
    Returns:
        int [B, T].
    """
    count = positions.shape[1] + 1

    def of_row(position_t, segment_t):
        last = jax.ops.segment_max(position_t, segment_t, num_segments=count)
        return last[segment_t] + 1

    return jax.vmap(of_row)(positions, segment_ids)
