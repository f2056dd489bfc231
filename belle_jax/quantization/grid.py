"""The numbers that a group of weights can become: a scale, a zero, and codes of a few bits."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

SMALLEST = 2.0**-14
"""The smallest scale: float16's smallest number with all its digits."""


class Grid(NamedTuple):
    """Of a group for each output: a weight becomes `scale * (code - zero)`."""

    scale: jax.Array  # [..., O], numbers that the stored dtype has
    zero: jax.Array  # [..., O], whole


@dataclasses.dataclass(frozen=True)
class Codes:
    """Which codes there are, and how a group's grid is chosen.

    Attributes:
        bits: Of a code.
        symmetric: Whether zero is half the range.
        lowest_zero: The smallest zero that the file can hold where it is not: 1 in GPTQ's first
            format, which stores one less.
        scale_dtype: What scales are rounded to before they are used.
        shrinks: How many smaller ranges are tried; 1: the range that holds all weights. Where
            zero is half the range, each is tried with a scale below zero as well.
    """

    bits: int
    symmetric: bool = True
    lowest_zero: int = 0
    scale_dtype: str = 'float16'
    shrinks: int = 1

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1


SHRINK_BY = 0.5
"""The smallest range that is tried, as a fraction of the whole."""


def fit(w: jax.Array, codes: Codes, importance: jax.Array | None = None) -> Grid:
    """The grid of a group.

    Args:
        w: Weights [g, O]; rows of zeros change nothing.
        codes: What there is to choose from.
        importance: [g], by which squared errors are weighed where ranges are tried.
    """
    low, high = jnp.minimum(w.min(axis=0), 0), jnp.maximum(w.max(axis=0), 0)
    if codes.symmetric:
        high = jnp.maximum(-low, high)
        low = -high
    empty = high == low
    low, high = jnp.where(empty, -1, low), jnp.where(empty, 1, high)
    whole = _grid(low, high, codes)
    if codes.shrinks == 1:
        return whole
    weights = jnp.ones(len(w), w.dtype) if importance is None else importance

    def attempt(best, shrink):
        grid, least = best
        other = _grid(low * shrink, high * shrink, codes)
        errors = jnp.square(w - dequantise(quantise(w, other, codes), other))
        error = jnp.einsum('g,go->o', weights, errors)
        better = error < least
        grid = jax.tree.map(lambda new, old: jnp.where(better, new, old), other, grid)
        return (grid, jnp.where(better, error, least)), None

    shrinks = jnp.linspace(1, SHRINK_BY, codes.shrinks, dtype=w.dtype)
    if codes.symmetric:
        # One code more lies below zero than above it: a scale below zero turns that round.
        shrinks = jnp.concatenate([shrinks, -shrinks])
    start = whole, jnp.full(w.shape[1], jnp.inf, w.dtype)
    return jax.lax.scan(attempt, start, shrinks)[0][0]


def _grid(low: jax.Array, high: jax.Array, codes: Codes) -> Grid:
    scale = (high - low) / codes.top
    scale = jnp.copysign(jnp.maximum(jnp.abs(scale), SMALLEST), scale)
    scale = scale.astype(codes.scale_dtype).astype(low.dtype)
    if codes.symmetric:
        return Grid(scale, jnp.full_like(scale, 2 ** (codes.bits - 1)))
    return Grid(scale, jnp.clip(jnp.round(-low / scale), codes.lowest_zero, codes.top))


def quantise(w: jax.Array, grid: Grid, codes: Codes) -> jax.Array:
    """The nearest codes, as whole numbers in the dtype of w."""
    return jnp.clip(jnp.round(w / grid.scale) + grid.zero, 0, codes.top)


def dequantise(code: jax.Array, grid: Grid) -> jax.Array:
    """What codes stand for."""
    return grid.scale * (code - grid.zero)


def rounded(w: jax.Array, codes: Codes, group_size: int) -> tuple[jax.Array, Grid]:
    """Plain rounding of a matrix.

    Args:
        w: Weights [I, O].
        codes: What there is to choose from.
        group_size: Inputs of a group; 0: all of them.
    Returns:
        Codes [I, O], and the grid [G, O].
    """
    inputs, outputs = w.shape
    size = group_size or inputs
    padded = jnp.pad(w, ((0, -inputs % size), (0, 0))).reshape(-1, size, outputs)
    grid = jax.vmap(lambda group: fit(group, codes))(padded)
    wide = Grid(*(part[:, None] for part in grid))
    return quantise(padded, wide, codes).reshape(-1, outputs)[:inputs], grid
