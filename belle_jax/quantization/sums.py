"""Work that is split over devices by columns, and gives the same numbers on any number of them.

A column is computed where it lies, from all of the text, in pieces of columns and of text that are
of one size however many devices there are: so sums have one order, and codes do not depend on the
machine.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from belle_jax import sharding

PIECE = {'cpu': 128}
"""Columns that are computed together at least, and a multiple of which always are: on a CPU four
times as many are what its caches hold."""
OTHER_PIECE = 1024
PIECES = 16
"""So many at least, for many devices, until they are that small. What all of them read is read for
each: fewer are faster."""


def by_columns(
    function: Callable[..., Any],
    columns: Sequence[jax.Array],
    *whole: Any,
    pieces: int = PIECES,
) -> Any:
    """Applies a function to pieces of columns, each device to its own.

    Args:
        function: Of pieces [..., P] and the whole arrays; gives arrays [..., P].
        columns: Arrays with equally many columns in their last axis.
        *whole: What every device has.
        pieces: So many at least, if that does not make them too small.
    Returns:
        What the function gives, with all columns.
    """
    least, count = PIECE.get(jax.default_backend(), OTHER_PIECE), columns[0].shape[-1]
    number = max(_over(count, 4 * least), min(_over(count, least), pieces))
    piece = least * _over(_over(count, number), least)
    fill = -count % (piece * sharding.shards('split'))

    def parted(a):
        a = jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, fill)])
        return jnp.moveaxis(a.reshape(*a.shape[:-1], -1, piece), -2, 0)

    def local(pieces, whole):
        return jax.lax.map(lambda one: function(*one, *whole), pieces)

    # Of pytrees: the first axis of pieces is spread, the rest is everywhere.
    mapped = sharding.shard_map(local, (('split',), ()), ('split',))
    made = mapped(tuple(map(parted, columns)), whole)
    return jax.tree.map(
        lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], -1)[..., :count], made
    )


@jax.jit
def of_products(x: jax.Array, y: jax.Array, mask: jax.Array, before: jax.Array | None) -> jax.Array:
    """The sum over tokens of products, float32 [I, J].

    Args:
        x: [B, T, ...], of I numbers a token, spread over devices by rows.
        y: [B, T, ...], of J.
        mask: bool [B, T], of the tokens that count.
        before: The sum over other tokens, to which these are added; None: nothing.
    """
    blocks, kept = sharding.shards('batch'), mask.reshape(-1, 1)
    x_bri, y_brj = (
        sharding.constrain(jnp.where(kept, a.reshape(mask.size, -1), 0), (None, None)).reshape(
            blocks, mask.size // blocks, -1
        )
        for a in (x, y)
    )
    shape = x_bri.shape[-1], y_brj.shape[-1]
    start = jnp.zeros(shape, jnp.float32) if before is None else before

    def of_piece(y_brp, sum_ip, x_bri):
        def add(sum_ip, block):
            x_ri, y_rp = block
            product = jnp.matmul(
                x_ri.T, y_rp, precision='highest', preferred_element_type=jnp.float32
            )
            return sum_ip + product, None

        return jax.lax.scan(add, sum_ip, (x_bri, y_brp))[0]

    pieces = 1 if sharding.shards('split') == 1 else PIECES
    return by_columns(of_piece, (y_brj, start), x_bri, pieces=pieces)


STRIPS, STRIP = 4, 1024
"""In about so many, each some times so wide, half of a symmetric sum is computed where one device
computes all of it."""


@jax.jit
def of_squares(x: jax.Array, mask: jax.Array, before: jax.Array | None) -> jax.Array:
    """`of_products` of x with itself: symmetric, so that what lies above the diagonal is copied."""
    x_btj = x.reshape(*mask.shape, -1)
    inputs = x_btj.shape[-1]
    alone = sharding.shards('split') == 1
    width = STRIP * _over(inputs, STRIPS * STRIP) if alone else inputs
    strips = []
    for start in range(0, inputs, width):
        rows, columns = x_btj[..., start:], x_btj[..., start : start + width]
        part = None if before is None else before[start:, start : start + width]
        strips.append(of_products(rows, columns, mask, part))
    lower = jnp.concatenate([jnp.pad(a, ((inputs - len(a), 0), (0, 0))) for a in strips], axis=1)
    # One choice between both, of 4,096 inputs, keeps XLA's compiler for CPUs busy for minutes.
    return jnp.tril(lower) + jnp.tril(lower, -1).T


def of_squared_errors(h: jax.Array, errors: jax.Array) -> jax.Array:
    """eᵀ H e of each column of errors [I, O] and a symmetric H: [O]."""
    inputs = len(h)
    width, total = _over(inputs, STRIPS), jnp.zeros(errors.shape[1], errors.dtype)
    for start in range(0, inputs, width):
        own = errors[start : start + width]
        before = h[start : start + width, :start] @ errors[:start]
        within = h[start : start + width, start : start + width] @ own
        total += jnp.sum(own * (2 * before + within), axis=0)
    return total


def _over(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
