"""Optimiser state in 8 bits, around any rule of optax, which sees float32 arrays."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

BLOCK = 128
"""Entries of the last axis that share a scale."""
LEAST = 4096
"""Smaller arrays stay float32: they cost nothing, and biases and norms are touchy."""
TOP = 448.0  # the largest number of float8_e4m3fn
BOTTOM = 2.0**-9  # the smallest above zero


class EightBits(NamedTuple):
    """A float32 array in 8 bits an entry."""

    codes: jax.Array  # float8_e4m3fn, of its shape
    scales: jax.Array  # float32, one for each block along the last axis


def in_eight_bits(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """The rule with its moments in blocks of 8-bit floats, each block with a scale.

    Of second moments the root is kept, whose range is half as wide, and it is rounded up or down
    by chance: a step changes them by less than half of what 8 bits tell apart, so that to the
    nearest they would never move. They do not round to zero either, which is divided by.

    Source: Dettmers et al., 2022 (8-bit optimizers), with floats in place of a table of codes.
    """

    def init(params: Any) -> Any:
        return _encoded(rule.init(params), jax.random.key(0))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        counts = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 0]
        key = jax.random.fold_in(jax.random.key(0), counts[0] if counts else 0)
        updates, state = rule.update(grads, _decoded(state), params)
        return updates, _encoded(state, key)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _encoded(state: Any, key: jax.Array) -> Any:
    """A rule's state with its large moments in 8 bits."""

    def of_leaf(path: Any, leaf: Any) -> Any:
        kind = _kind(path)
        if kind is None or leaf.size < LEAST or leaf.dtype != jnp.float32:
            return leaf
        if kind == 'mu':
            return _encode(leaf, lambda scaled: scaled)
        own = jax.random.fold_in(key, zlib.crc32(jax.tree_util.keystr(path).encode()))
        return _encode(jnp.sqrt(leaf), lambda scaled: _by_chance(scaled, own))

    return jax.tree_util.tree_map_with_path(of_leaf, state)


def _decoded(state: Any) -> Any:
    def of_leaf(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, EightBits):
            return leaf
        wide = jnp.repeat(leaf.scales, BLOCK, axis=-1)[..., : leaf.codes.shape[-1]]
        value = leaf.codes.astype(jnp.float32) * wide
        return value if _kind(path) == 'mu' else value * value

    return jax.tree_util.tree_map_with_path(
        of_leaf, state, is_leaf=lambda leaf: isinstance(leaf, EightBits)
    )


def _encode(array: jax.Array, rounded: Callable[[jax.Array], jax.Array]) -> EightBits:
    last = array.shape[-1]
    padded = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -last % BLOCK)])
    blocks = padded.reshape(*array.shape[:-1], -1, BLOCK)
    scales = jnp.abs(blocks).max(axis=-1) / TOP
    wide = jnp.where(scales == 0, 1, scales)[..., None]
    codes = rounded(blocks / wide).reshape(padded.shape)[..., :last]
    return EightBits(codes.astype(jnp.float8_e4m3fn), scales)


def _by_chance(scaled: jax.Array, key: jax.Array) -> jax.Array:
    """Numbers from 0 to TOP with three bits of mantissa, above or below by chance; never 0."""
    noise = jax.random.bits(key, scaled.shape, jnp.uint32) >> 12  # below what three bits leave
    bits = jax.lax.bitcast_convert_type(scaled, jnp.uint32) + noise
    cut = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFF00000), jnp.float32)
    return jnp.clip(cut, BOTTOM, TOP)


def _kind(path: Any) -> str | None:
    """Whether a leaf is a first or a second moment: mu or nu, as optax calls them."""
    names = [k.name for k in path if isinstance(k, jax.tree_util.GetAttrKey)]
    return next((name for name in reversed(names) if name in ('mu', 'nu')), None)
