"""BLOOM: layer norm after the embedding, ALiBi, fused query-key-value, tied tables."""

import jax
from flax import nnx

from belle_jax import sharding
from belle_jax.config import Architecture
from belle_jax.models.attention import alibi_slopes, attention, cached_attention, write_cache
from belle_jax.models.decoder import Decoder, Execution
from belle_jax.models.layers import ACTIVATIONS, Cache, Context, LayerNorm, Linear, dropout

HEADS = ('batch', 'length', 'heads', 'head_dim')


class BloomAttention(nnx.Module):
    """Multi-head self-attention with linear biases in place of positions."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        self.architecture, self.execution = a, execution
        # Published weights interleave query, key and value within each head; so does this kernel.
        self.qkv = Linear(
            'btd,dnch->btnch',
            (a.embed, a.q_heads, 3, a.head_dim),
            ('embed', 'q_heads', 'qkv', 'head_dim'),
            bias_from=1,
            layers=layers,
        )
        self.out = Linear(
            'btnh,nhd->btd',
            (a.q_heads, a.head_dim, a.embed),
            ('q_heads', 'head_dim', 'embed'),
            bias_from=2,
            layers=layers,
        )

    def __call__(
        self, x_btd: jax.Array, context: Context, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        qkv = self.qkv(x_btd)
        q_btnh, k_btnh, v_btnh = (sharding.constrain(qkv[:, :, :, i], HEADS) for i in range(3))
        slopes = alibi_slopes(self.architecture.q_heads)
        if cache is not None:
            slots = context.positions
            cache = write_cache(cache[0], k_btnh, slots), write_cache(cache[1], v_btnh, slots)
            out_btnh = cached_attention(q_btnh, *cache, slots, slopes)
        else:
            out_btnh = attention(
                q_btnh,
                k_btnh,
                v_btnh,
                segment_ids=context.segment_ids,
                slopes=slopes,
                backend=self.execution.attention,
                dropout=self.execution.attention_dropout,
                key=key,
            )
        return self.out(out_btnh), cache


class BloomMLP(nnx.Module):
    """Feed-forward layer with the tanh form of GELU."""

    def __init__(self, a: Architecture, layers: int):
        self.activation = a.activation
        self.up = Linear(
            'btd,df->btf', (a.embed, a.mlp), ('embed', 'mlp'), bias_from=1, layers=layers
        )
        self.down = Linear(
            'btf,fd->btd', (a.mlp, a.embed), ('mlp', 'embed'), bias_from=1, layers=layers
        )

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        f_btf = ACTIVATIONS[self.activation](self.up(x_btd))
        return self.down(sharding.constrain(f_btf, ('batch', 'length', 'hidden')))


class BloomBlock(nnx.Module):
    """One layer, or a stack of them."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        self.execution = execution
        self.post_norm_residual = a.post_norm_residual
        self.attention_norm = LayerNorm(a.embed, a.norm_eps, layers)
        self.attention = BloomAttention(a, execution, layers)
        self.mlp_norm = LayerNorm(a.embed, a.norm_eps, layers)
        self.mlp = BloomMLP(a, layers)

    def __call__(
        self, x_btd: jax.Array, context: Context, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        keys = [None] * 3 if key is None else jax.random.split(key, 3)
        rate = self.execution.hidden_dropout
        normed = self.attention_norm(x_btd)
        residual = normed if self.post_norm_residual else x_btd
        out_btd, cache = self.attention(normed, context, keys[0], cache)
        x_btd = residual + dropout(out_btd, rate, keys[1])
        normed = self.mlp_norm(x_btd)
        residual = normed if self.post_norm_residual else x_btd
        return residual + dropout(self.mlp(normed), rate, keys[2]), cache


class Bloom(Decoder):
    """A BLOOM."""

    block, norm = BloomBlock, LayerNorm

    def __init__(self, blueprint, execution: Execution):
        super().__init__(blueprint, execution)
        a = self.architecture
        self.embed_norm = LayerNorm(a.embed, a.norm_eps)

    def embedded(self, tokens: jax.Array, context: Context) -> jax.Array:
        """[B, T, D], normed."""
        return self.embed_norm(super().embedded(tokens, context))
