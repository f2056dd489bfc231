"""BLOOM: layer norm after the embedding, ALiBi, fused query-key-value, tied tables."""

import jax
from flax import nnx

from belle_jax import sharding
from belle_jax.config import Architecture
from belle_jax.models.attention import alibi_slopes, attend
from belle_jax.models.decoder import Decoder, Execution
from belle_jax.models.layers import ACTIVATIONS, Block, Cache, Context, LayerNorm, Linear

HEADS = ('batch', 'length', 'heads', 'head_dim')


class BloomAttention(nnx.Module):
    """Multi-head self-attention with linear biases in place of positions."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        self.architecture, self.execution = a, execution
        # Published weights interleave query, key and value within each head; so does this kernel.
        shape = (a.embed, a.q_heads, 3, a.head_dim)
        axes = ('embed', 'q_heads', 'qkv', 'head_dim')
        self.qkv = Linear('btd,dnch->btnch', shape, axes, layers, bias_from=1)
        shape, axes = (a.q_heads, a.head_dim, a.embed), ('q_heads', 'head_dim', 'embed')
        self.out = Linear('btnh,nhd->btd', shape, axes, layers, bias_from=2)

    def __call__(
        self, x_btd: jax.Array, context: Context, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        qkv = self.qkv(x_btd)
        q_btnh, k_btnh, v_btnh = (sharding.constrain(qkv[:, :, :, i], HEADS) for i in range(3))
        slopes = alibi_slopes(self.architecture.q_heads)
        out_btnh, cache = attend(
            q_btnh, k_btnh, v_btnh, context, cache, self.execution, key, slopes
        )
        return self.out(out_btnh), cache


class BloomMLP(nnx.Module):
    """Feed-forward layer with the tanh form of GELU."""

    def __init__(self, a: Architecture, layers: int):
        self.activation = a.activation
        self.up = Linear('btd,df->btf', (a.embed, a.mlp), ('embed', 'mlp'), layers, bias_from=1)
        self.down = Linear('btf,fd->btd', (a.mlp, a.embed), ('mlp', 'embed'), layers, bias_from=1)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        f_btf = ACTIVATIONS[self.activation](self.up(x_btd))
        return self.down(sharding.constrain(f_btf, ('batch', 'length', 'hidden')))


class BloomBlock(Block):
    """One layer, or a stack of them."""

    def __init__(self, a: Architecture, execution: Execution, layers: int):
        super().__init__(LayerNorm, a, execution, layers)
        self.post_norm_residual = a.post_norm_residual
        self.attention = BloomAttention(a, execution, layers)
        self.mlp = BloomMLP(a, layers)


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
