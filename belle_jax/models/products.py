"""Products of activations and weights: the ways to write them that compilers run fast."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from belle_jax import sharding

FEW = 8
"""Rows of which a TPU's matrix unit takes as many at once."""


def project(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """A product of activations and a weight, in the activations' dtype.

    Leading batch dimensions of `x` are flattened first: XLA's CPU backend runs [B·T, D] products
    several times faster than [B, T, D] ones, forward and backward, and no backend minds.

    Args:
        equation: Like 'btd,dnh->btnh': two leading dimensions, the contracted ones, the others.
        x: Activations [B, T, ...].
        w: Weight; cast to the dtype of x.
    Returns:
        The product, in the dtype of x.
    """
    axes, output = equation.split('->')
    x_axes, w_axes = axes.split(',')
    if w_axes != x_axes[2:] + output[2:] or output[:2] != x_axes[:2]:
        raise ValueError(f'{equation!r} is not a product of tokens and a weight.')
    inputs = math.prod(x.shape[2:])
    x_mi, w_io = x.reshape(-1, inputs), w.astype(x.dtype).reshape(inputs, -1)
    if output[2:] == 'd':
        # Its gradient is split along the last dimension, which a TPU's compiler reduces whole on
        # every device. Split along the first, each device gets the sum of its own part alone.
        w_oi = sharding.constrain(w_io.T, ('embed', 'hidden'))
        out = jax.lax.dot_general(x_mi, w_oi, (((1,), (1,)), ((), ())))
    else:
        out = x_mi @ w_io
    return out.reshape(*x.shape[:2], *w.shape[x.ndim - 2 :])


def few_rows(
    product: Callable[..., jax.Array],
    x: jax.Array,
    y: jax.Array,
    *,
    axis: int = 0,
    out_axis: int = 0,
    least: int = FEW,
) -> jax.Array:
    """A product, on TPUs of at least `least` rows of x.

    Products of fewer go to the vector unit, which takes more than twice as long as reading `y`.

    Args:
        product: Of x and y.
        x: Its rows along `axis`; zeros are added.
        y: What each row is multiplied with.
        axis: Of x.
        out_axis: The one that rows have in the product.
        least: Rows.
    """
    rows = x.shape[axis]

    def padded(x, y):
        widths = [(0, (least - rows) * (a == axis)) for a in range(x.ndim)]
        return jax.lax.slice_in_dim(product(jnp.pad(x, widths), y), 0, rows, axis=out_axis)

    if rows >= least:
        return product(x, y)
    return jax.lax.platform_dependent(x, y, tpu=padded, default=product)


def flat_product(x_mi: jax.Array, w_io: jax.Array) -> jax.Array:
    """Rows times a matrix that is read as it lies.

    Without the barrier XLA merges the split of outputs into heads into the product, for which the
    weight has to be copied into another layout.
    """
    return jax.lax.optimization_barrier(x_mi @ w_io.astype(x_mi.dtype))
