"""What the blocks of all families are built of: linear layers, norms, dropout, the table.

Functions, and modules that hold their parameters.

Legend: B batch, T query, S key, D embed, N query heads, K key-value heads, H head dim, F mlp,
V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax.config import Architecture
from belle_jax.models import vocabulary
from belle_jax.models.products import few_rows, flat_product, project

ACTIVATIONS = {
    'silu': jax.nn.silu,
    'gelu': lambda x: jax.nn.gelu(x, approximate=False),
    'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
    'relu': jax.nn.relu,
}


class Context(NamedTuple):
    """What every block of a forward pass reads beside the hidden states."""

    positions: jax.Array  # int [B, T]
    segment_ids: jax.Array | None = None  # int [B, T]
    cos_bth: Any = None  # float32 [B, T, H/2]; None without rotary positions
    sin_bth: Any = None


Cache = tuple[jax.Array, jax.Array]
"""Keys and values of one layer, [B, K, S, H] each."""


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a fraction of entries and scales the rest; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def declare(
    shape,
    axes,
    *,
    init: str = 'normal',
    layers: int = 0,
    dtype: str = 'float32',
    part: str = 'base',
) -> nnx.Param:
    """A parameter, by shape alone: `models.build` puts an array in.

    Args:
        shape: Of one layer.
        axes: The logical axis of each dimension.
        init: normal, ones or zeros.
        layers: Above 0, a stack of that many.
        dtype: Of the numbers.
        part: Of the model: base, adapter or head.
    """
    if layers:
        shape, axes = (layers, *shape), ('layers', *axes)
    declared = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
    return nnx.Param(declared, axes=tuple(axes), init=init, part=part)


def flat(param: nnx.Param, inputs: int) -> nnx.Param:
    """A declared weight as a matrix: its first `inputs` dimensions as one, the others as one."""
    shape, said = param.get_value().shape, param.get_metadata()
    start = int(said['axes'][0] == 'layers')
    split = start + inputs
    sizes = math.prod(shape[start:split]), math.prod(shape[split:])
    axes = *said['axes'][:start], said['axes'][start], said['axes'][split]
    declared = jax.ShapeDtypeStruct((*shape[:start], *sizes), param.get_value().dtype)
    return nnx.Param(declared, axes=axes, init=said['init'], part=said['part'])


class Linear(nnx.Module):
    """A product and, where asked, a bias; `adapters.adapt` may put an adapter beside it."""

    def __init__(self, equation, shape, axes, layers: int = 0, bias_from: int | None = None):
        """Declares the weight.

        Args:
            equation: As `project`'s.
            shape: Of the weight.
            axes: Its logical axes.
            layers: As in `declare`.
            bias_from: The first dimension of the weight that the bias has; None: no bias.
        """
        self.equation, self.shape, self.flat = equation, tuple(shape), False
        self.adapter: Any = nnx.data(None)
        self.kernel = declare(shape, axes, layers=layers)
        self.has_bias = bias_from is not None
        if self.has_bias:
            self.bias = declare(shape[bias_from:], axes[bias_from:], init='zeros', layers=layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.product(x)
        if self.adapter is not None:
            out = self.adapter(x, out, self)
        return out + self.bias[...].astype(out.dtype) if self.has_bias else out

    def product(self, x: jax.Array) -> jax.Array:
        """The product alone."""
        kernel = self.kernel[...]
        if not self.flat:
            return project(self.equation, x, kernel)
        inputs, outputs = kernel.shape[0], self.shape[self.inputs :]
        out = few_rows(flat_product, x.reshape(-1, inputs), kernel)
        return out.reshape(*x.shape[:2], *outputs)

    def weight(self) -> jax.Array:
        """float32, inputs first."""
        return self.kernel[...].astype(jnp.float32)

    @property
    def inputs(self) -> int:
        """How many dimensions of the weight are contracted."""
        return self.equation.index(',') - 2

    def flatten(self) -> None:
        """Declares the weight as a matrix, inputs by outputs."""
        self.kernel, self.flat = flat(self.kernel, self.inputs), True


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the embedding, in float32.

    Source: Zhang and Sennrich, 2019; the order of casts is LLaMA's.
    """

    def __init__(self, embed: int, eps: float, layers: int = 0):
        self.eps = eps
        self.scale = declare((embed,), ('embed',), init='ones', layers=layers)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        x_32 = x_btd.astype(jnp.float32)
        normed = x_32 * jax.lax.rsqrt(jnp.mean(x_32 * x_32, axis=-1, keepdims=True) + self.eps)
        return self.scale[...].astype(x_btd.dtype) * normed.astype(x_btd.dtype)


class LayerNorm(nnx.Module):
    """Layer norm over the embedding, in float32. Source: Ba et al., 2016."""

    def __init__(self, embed: int, eps: float, layers: int = 0):
        self.eps = eps
        self.scale = declare((embed,), ('embed',), init='ones', layers=layers)
        self.bias = declare((embed,), ('embed',), init='zeros', layers=layers)

    def __call__(self, x_btd: jax.Array) -> jax.Array:
        x_32 = x_btd.astype(jnp.float32)
        centred = x_32 - x_32.mean(axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.eps)
        scale_d, bias_d = (p[...].astype(jnp.float32) for p in (self.scale, self.bias))
        return (normed * scale_d + bias_d).astype(x_btd.dtype)


class Block(nnx.Module):
    """One layer, or a stack: attention and an MLP, each behind a norm and added to what came in.

    A family's block makes its `attention` and its `mlp`.
    """

    post_norm_residual = False
    """Whether they are added to the normed states instead."""
    attention: Any
    mlp: Any

    def __init__(self, norm: Callable[..., Any], a: Architecture, execution: Any, layers: int):
        self.execution = execution
        self.attention_norm = norm(a.embed, a.norm_eps, layers)
        self.mlp_norm = norm(a.embed, a.norm_eps, layers)

    def __call__(
        self, x_btd: jax.Array, context: Context, key: jax.Array | None, cache: Cache | None
    ) -> tuple[jax.Array, Cache | None]:
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)
        x_btd, cache = self.attended(x_btd, context, keys[:2], cache)
        return self.fed(x_btd, keys[2]), cache

    def attended(
        self, x_btd: jax.Array, context: Context, keys: Any = (None, None), cache: Any = None
    ) -> tuple[jax.Array, Cache | None]:
        """The first half: states [B, T, D] to which attention is added, and the new cache."""
        normed = self.attention_norm(x_btd)
        residual = normed if self.post_norm_residual else x_btd
        out_btd, cache = self.attention(normed, context, keys[0], cache)
        return residual + dropout(out_btd, self.execution.hidden_dropout, keys[1]), cache

    def fed(self, x_btd: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The second half: states [B, T, D] to which the MLP is added."""
        normed = self.mlp_norm(x_btd)
        residual = normed if self.post_norm_residual else x_btd
        return residual + dropout(self.mlp(normed), self.execution.hidden_dropout, key)


class Vocabulary(nnx.Module):
    """A table over the vocabulary: looked up at the input, multiplied with at the output."""

    def __init__(self, padded_vocab: int, embed: int):
        self.table = declare((padded_vocab, embed), ('vocab', 'embed'))

    def __call__(self, tokens_bt: jax.Array, dtype: str) -> jax.Array:
        return vocabulary.embed(tokens_bt, self.table[...], jnp.dtype(dtype))

    def logits(self, h_btd: jax.Array, vocab_size: int) -> jax.Array:
        """float32 [B, T, V padded]; the padding is minus infinity."""
        return vocabulary.logits(h_btd, self.table[...], vocab_size)
