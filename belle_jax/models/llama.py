"""LLaMA 1, 2, 3 and their like: RMS norm, rotary positions, grouped-query heads, gated MLP."""

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax import sharding
from belle_jax.config import Architecture
from belle_jax.models import ops
from belle_jax.models.attention import attention, cached_attention, write_cache
from belle_jax.models.blueprint import Execution
from belle_jax.models.decoder import Decoder
from belle_jax.models.layers import Cache, Context, Linear, RMSNorm

HEADS = ('batch', 'length', 'heads', 'head_dim')


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        self.architecture, self.execution = a, execution

        def heads(count, axis):
            return Linear(
                'btd,dnh->btnh',
                (a.embed, count, a.head_dim),
                ('embed', axis, 'head_dim'),
                bias_from=1 if a.attention_bias else None,
                layers=layers,
            )

        self.query = heads(a.q_heads, 'q_heads')
        self.key = heads(a.kv_heads, 'kv_heads')
        self.value = heads(a.kv_heads, 'kv_heads')
        self.out = Linear(
            'btnh,nhd->btd',
            (a.q_heads, a.head_dim, a.embed),
            ('q_heads', 'head_dim', 'embed'),
            bias_from=2 if a.attention_bias else None,
            layers=layers,
        )

    def __call__(
        self, x_btd: jax.Array, context: Context, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        q_btnh = sharding.constrain(self.query(x_btd), HEADS)
        k_btkh = sharding.constrain(self.key(x_btd), HEADS)
        v_btkh = sharding.constrain(self.value(x_btd), HEADS)
        q_btnh = ops.rotate(q_btnh, context.cos_bth, context.sin_bth)
        k_btkh = ops.rotate(k_btkh, context.cos_bth, context.sin_bth)
        if cache is not None:
            slots = context.positions
            cache = write_cache(cache[0], k_btkh, slots), write_cache(cache[1], v_btkh, slots)
            out_btnh = cached_attention(q_btnh, *cache, slots)
        else:
            out_btnh = attention(
                q_btnh,
                k_btkh,
                v_btkh,
                segment_ids=context.segment_ids,
                backend=self.execution.attention,
                dropout=self.execution.attention_dropout,
                key=key,
            )
        return self.out(out_btnh), cache


class MLP(nnx.Module):
    """Gated feed-forward layer."""

    def __init__(self, a: Architecture, layers: int):
        self.activation = a.activation
        bias_from = 1 if a.mlp_bias else None

        def up():
            return Linear(
                'btd,df->btf',
                (a.embed, a.mlp),
                ('embed', 'mlp'),
                bias_from=bias_from,
                layers=layers,
            )

        self.gate, self.up = up(), up()
        self.down = Linear(
            'btf,fd->btd', (a.mlp, a.embed), ('mlp', 'embed'), bias_from=bias_from, layers=layers
        )

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        gate_btf = ops.ACTIVATIONS[self.activation](self.gate(x_btd))
        f_btf = sharding.constrain(gate_btf * self.up(x_btd), ('batch', 'length', 'hidden'))
        return self.down(f_btf)


class Block(nnx.Module):
    """One layer, or a stack of them."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        self.execution = execution
        self.attention_norm = RMSNorm(a.embed, a.norm_eps, layers)
        self.attention = Attention(a, execution, layers)
        self.mlp_norm = RMSNorm(a.embed, a.norm_eps, layers)
        self.mlp = MLP(a, layers)

    def __call__(
        self, x_btd: jax.Array, context: Context, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        rate = self.execution.hidden_dropout
        out_btd, cache = self.attention(self.attention_norm(x_btd), context, keys[0], cache)
        x_btd = x_btd + ops.dropout(out_btd, rate, keys[1])
        out_btd = self.mlp(self.mlp_norm(x_btd))
        return x_btd + ops.dropout(out_btd, rate, keys[2]), cache


class Llama(Decoder):
    """A LLaMA."""

    block, norm = Block, RMSNorm

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
                lengths = ops.segment_lengths(positions, segment_ids)
            else:
                lengths = positions.max(axis=1, keepdims=True) + 1
        frequencies = ops.rope_frequencies(a.rope, a.head_dim, a.max_position, lengths)
        angles_bth = positions[..., None].astype(jnp.float32) * frequencies
        return Context(positions, segment_ids, jnp.cos(angles_bth), jnp.sin(angles_bth))
