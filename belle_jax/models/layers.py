"""Layers that families share: products, norms, the table of the vocabulary, a block's context."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax import sharding
from belle_jax.models import ops, vocabulary
from belle_jax.models.blueprint import declare


class Context(NamedTuple):
    """What every block of a forward pass reads beside the hidden states."""

    positions: jax.Array  # int [B, T]
    segment_ids: jax.Array | None = None  # int [B, T]
    cos_bth: Any = None  # float32 [B, T, H/2]; None without rotary positions
    sin_bth: Any = None


Cache = tuple[jax.Array, jax.Array]
"""Keys and values of one layer, [B, K, S, H] each."""


class Linear(nnx.Module):
    """A product and, where asked, a bias."""

    def __init__(self, equation, shape, axes, *, bias_from: int | None = None, layers: int = 0):
        """Declares the weight.

        Args:
            equation: As `ops.project`'s.
            shape: Of the weight.
            axes: Its logical axes.
            bias_from: The first dimension of the weight that the bias has; None: no bias.
            layers: As in `declare`.
        """
        self.equation = equation
        self.kernel = declare(shape, axes, layers=layers)
        self.has_bias = bias_from is not None
        if self.has_bias:
            self.bias = declare(shape[bias_from:], axes[bias_from:], init='zeros', layers=layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = ops.project(self.equation, x, self.kernel[...])
        return out + self.bias[...].astype(out.dtype) if self.has_bias else out


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the embedding."""

    def __init__(self, embed: int, eps: float, layers: int = 0):
        self.eps = eps
        self.scale = declare((embed,), ('embed',), init='ones', layers=layers)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        return ops.rms_norm(x_btd, self.scale[...], self.eps)


class LayerNorm(nnx.Module):
    """Layer norm over the embedding."""

    def __init__(self, embed: int, eps: float, layers: int = 0):
        self.eps = eps
        self.scale = declare((embed,), ('embed',), init='ones', layers=layers)
        self.bias = declare((embed,), ('embed',), init='zeros', layers=layers)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        return ops.layer_norm(x_btd, self.scale[...], self.bias[...], self.eps)


class Vocabulary(nnx.Module):
    """A table over the vocabulary: looked up at the input, multiplied with at the output."""

    def __init__(self, padded_vocab: int, embed: int):
        self.table = declare((padded_vocab, embed), ('vocab', 'embed'))

    def __call__(self, tokens_bt: jax.Array, dtype: str) -> jax.Array:
        return vocabulary.embed(tokens_bt, self.table[...], jnp.dtype(dtype))

    def logits(self, h_btd: jax.Array, vocab_size: int) -> jax.Array:
        """float32 [B, T, V padded]; the padding is minus infinity."""
        table_vd = self.table[...].astype(h_btd.dtype)
        flat = h_btd.reshape(-1, h_btd.shape[-1])
        logits = jax.lax.dot(flat, table_vd.T, preferred_element_type=jnp.float32)
        ids = jnp.arange(table_vd.shape[0])
        logits = jnp.where(ids < vocab_size, logits, -jnp.inf)
        logits = logits.reshape(*h_btd.shape[:2], -1)
        return sharding.constrain(logits, ('batch', 'length', 'vocab'))
