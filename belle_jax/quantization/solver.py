"""GPTQ of one matrix: codes that keep a layer's outputs, not each weight by itself.

With the factors H = Lᵀ D L (L lower triangular with a diagonal of 1, D a diagonal matrix) the
error of the outputs is Σ D_j (L e)_j², where e is what rounding takes from the weights. Inputs are
rounded one after the other; the weight of input j is first moved by Σ_{i<j} L_ji e_i, which makes
up for all errors before it as well as this weight can. That is GPTQ without the inverse of H that
its authors go by: one factorisation, and sums of errors in blocks.

    H = [[2, 1], [1, 2]], w = [0.4, 0.4], codes are whole numbers:
    L_21 = 1 / 2;  0.4 -> 0, e = 0.4;  0.4 + 0.4 / 2 = 0.6 -> 1.  Rounding alone gives 0, 0.

Source: Frantar et al., 2022 (GPTQ), algorithm 1; Chen et al., 2025 (The geometry of LLM
quantization), section 4, for the form without an inverse.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from belle_jax.quantization import grid, sums
from belle_jax.quantization.grid import Codes, Grid

BLOCK = 128
"""Inputs whose errors are passed on to all later ones together, and to each other in strips."""
STRIP = 16

ORDERS = ('none', 'activations', 'groups')
"""Of the inputs: as they come; those with the largest activations first, wherever they are; or so
that groups stay together, which changes nothing about the file (Gafni et al., 2025)."""


@dataclasses.dataclass(frozen=True)
class Solving:
    """How a matrix is quantised.

    Attributes:
        codes: What there is to choose from.
        group_size: Inputs of a group; 0: all of them.
        order: One of `ORDERS`.
    """

    codes: Codes
    group_size: int = 128
    order: str = 'groups'

    @property
    def parts(self) -> tuple[int, ...]:
        """Inputs of a block, of a part of it, and so on to one: blocks are whole groups, or parts
        of one."""
        size = self.group_size
        if size > BLOCK:
            block = next(n for n in range(BLOCK, 0, -1) if size % n == 0)
            sizes = size, block
        else:
            block = size * (BLOCK // size) if size else BLOCK
            sizes = block, size or block
        sizes = *sizes, math.gcd(sizes[-1], STRIP), 1
        return tuple(dict.fromkeys(sizes))


class Columns(NamedTuple):
    """Columns of a quantised matrix."""

    codes: jax.Array  # uint8 [I, O]
    scales: jax.Array  # [G, O], in the dtype of the weights
    zeros: jax.Array  # uint8 [G, O]
    weights: jax.Array  # [I, O], what the codes stand for
    loss: jax.Array  # [O], eᵀ H e of the errors e


class Solution(NamedTuple):
    """A quantised matrix, as `Columns`, and how its inputs are grouped."""

    codes: jax.Array
    scales: jax.Array
    zeros: jax.Array
    weights: jax.Array
    groups: jax.Array  # int32 [I], the group of each input


def order_of(h: jax.Array, solving: Solving) -> jax.Array:
    """int32 [I]: in which order inputs are rounded.

    With whole groups, the group that has the largest entry of the diagonal comes first; a last one
    that is not full stays last, so that groups begin where they did.
    """
    diagonal, size = jnp.diagonal(h), solving.group_size
    inputs = len(diagonal)
    if solving.order == 'activations' or (solving.order == 'groups' and not size):
        return jnp.argsort(-diagonal)
    if solving.order == 'none':
        return jnp.arange(inputs)
    count = inputs // size
    full = diagonal[: count * size].reshape(count, size)
    within = jnp.argsort(-full, axis=1) + jnp.arange(count)[:, None] * size
    first = within[jnp.argsort(-full.max(axis=1))].reshape(-1)
    return jnp.concatenate([first, count * size + jnp.argsort(-diagonal[count * size :])])


class Factor(NamedTuple):
    """What solving needs of a Hessian H = Lᵀ D L, whose inputs are put in order first.

    All but the order is filled up to whole blocks, J inputs, by ones that have nothing to do with
    others and count for nothing.
    """

    order: jax.Array  # int32 [I], of the inputs
    lower: jax.Array  # [J, J], L
    inverses: jax.Array  # [J / B, B, B], of the squares along its diagonal
    d: jax.Array  # [J], D
    added: jax.Array  # [J], what was added to the diagonal of H


@functools.partial(jax.jit, static_argnames='solving')
def factor(h: jax.Array, damp: float, solving: Solving) -> Factor:
    """What solving needs of a Hessian.

    Args:
        h: Sums of products of the inputs [I, I].
        damp: Fraction of the diagonal's mean that is added to it.
        solving: Decides the order.
    Returns:
        The factor; not a number where H with that damping is not positive.
    """
    diagonal = jnp.diagonal(h)
    # An input that never was anything but zero may become anything.
    diagonal = jnp.where(diagonal == 0, 1, diagonal)
    order = order_of(h, solving)
    added = diagonal - jnp.diagonal(h) + damp * diagonal.mean()
    h = (h + jnp.diag(added))[order][:, order]
    # With the rows and columns turned round Cholesky's factor is that of H = R Rᵀ, R upper.
    r = jnp.linalg.cholesky(h[::-1, ::-1], symmetrize_input=False)[::-1, ::-1]
    scale, pad = jnp.diagonal(r), -len(h) % solving.parts[0]
    lower = jnp.pad((r / scale).T, ((0, pad), (0, pad)))
    if pad:
        lower = lower + jnp.diag(jnp.arange(len(lower)) >= len(h))
    size = solving.group_size or BLOCK
    parted = lower.reshape(-1, size, len(lower) // size, size)
    squares = jnp.moveaxis(jnp.diagonal(parted, axis1=0, axis2=2), -1, 0)
    one = jnp.broadcast_to(jnp.eye(size, dtype=h.dtype), squares.shape)
    inverses = jax.lax.linalg.triangular_solve(squares, one, left_side=True, lower=True)
    d, added = (jnp.pad(a, (0, pad)) for a in (jnp.square(scale), added[order]))
    return Factor(order, lower, inverses, d, added)


def inverted(factor: Factor, y: jax.Array) -> jax.Array:
    """H⁻¹ y, of y [I, O]."""
    order, lower, inverses, d, _ = factor
    count, size, _ = inverses.shape
    pad = len(d) - len(order)

    def put(y_jo, part, number):
        return jax.lax.dynamic_update_slice_in_dim(y_jo, part, number * size, 0)

    def back(step, y_jo):
        """Of Lᵀ, from the last block on: each is taken from all before it."""
        number = count - 1 - step
        take = _taken(number * size, size)
        x_bo = inverses[number].T @ take(y_jo)
        return put(y_jo - take(lower).T @ x_bo, x_bo, number)

    def forth(number, x_jo):
        """Of L, from the first block on."""
        take = _taken(number * size, size)
        rest = take(y_jo) - _passed_on(take(lower), x_jo, number * size)
        return put(x_jo, inverses[number] @ rest, number)

    y_jo = jax.lax.fori_loop(0, count, back, jnp.pad(y[order], ((0, pad), (0, 0))))
    y_jo = y_jo / jnp.where(d == 0, 1, d)[:, None]
    return jax.lax.fori_loop(0, count, forth, jnp.zeros_like(y_jo))[jnp.argsort(order)]


def solve(w: jax.Array, factor: Factor, solving: Solving) -> Columns:
    """Quantises a matrix.

    Args:
        w: Weights [I, O].
        factor: Of the Hessian, by the same solving.
        solving: How.
    """
    order, lower, _, d, added = factor
    inputs, size = len(w), solving.group_size
    w_jo = jnp.pad(w[order], ((0, len(d) - inputs), (0, 0)))
    one = jnp.ones((len(d) // size if size else 1, w.shape[1]), w.dtype)
    grids = Grid(one, 0 * one)
    if not size:
        # The error of an input counts by D_j once all later ones have made up for it.
        grids = Grid(*(part[None] for part in grid.fit(w_jo, solving.codes, d)))
    run, zeros = _Loops(solving, factor).run, jnp.zeros_like(w_jo)
    codes, owed, errors, grids = run(solving.parts, 0, w_jo, lower, zeros, grids)
    # Σ D_j (L e)_j² is the error with what was added to H.
    loss = d @ jnp.square(errors + owed) - added @ jnp.square(errors)
    codes, rows = codes[jnp.argsort(order)], groups_of(order, solving)
    if size and solving.order == 'groups':
        # The groups themselves go back to where they were.
        grids = Grid(*(part[jnp.argsort(order[::size] // size)] for part in grids))
    # Behind the last group there may be some that only fill a block up.
    grids = Grid(*(part[: -(-inputs // size) if size else 1] for part in grids))
    return _columns(codes, grids, rows, loss)


def groups_of(order: jax.Array, solving: Solving) -> jax.Array:
    """int32 [I]: the group of each input, as `solve` makes them in the order from `factor`."""
    size = solving.group_size or len(order)
    place = jnp.argsort(order) if solving.order == 'activations' else jnp.arange(len(order))
    return (place // size).astype(jnp.int32)


class _Loops:
    """Loops within loops over inputs, in the order in which they are rounded.

    What an input owes, [O], is Σ L_ji e_i: how far its weights are to move. Errors are passed on to
    a later part by a product, once its turn comes.
    """

    def __init__(self, solving: Solving, factor: Factor):
        self._codes, self._size, self._factor = solving.codes, solving.group_size, factor

    def run(self, parts, start, w_ro, l_rr, owed_ro, grids):
        """Rounds inputs that follow each other.

        Args:
            parts: Inputs of a part, of a part of that, and so on.
            start: The place of the first.
            w_ro: Their weights.
            l_rr: Of L, what they have with each other.
            owed_ro: What they owe because of inputs before them.
            grids: [G, O], those of groups before them filled.
        Returns:
            Codes, what is owed when an input is rounded and errors, each [R, O]; and grids.
        """
        if not parts:
            index = start // self._size if self._size else 0
            one = Grid(*(jax.lax.dynamic_slice_in_dim(part, index, 1) for part in grids))
            codes_ro = grid.quantise(w_ro + owed_ro, one, self._codes)
            return codes_ro, owed_ro, w_ro - grid.dequantise(codes_ro, one), grids
        size, *smaller = parts

        def part(number, made):
            first = number * size
            take = _taken(first, size)
            put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=first, axis=0)
            *made, grids = made
            w_po, l_pr = take(w_ro), take(l_rr)
            owed_po = take(owed_ro) + _passed_on(l_pr, made[-1], first)
            if size == self._size:
                grids = self._fitted(grids, start + first, w_po, owed_po)
            l_pp = take(l_pr, axis=1)
            *found, grids = self.run(smaller, start + first, w_po, l_pp, owed_po, grids)
            return (*map(put, made, found), grids)

        empty = (jnp.zeros_like(w_ro),) * 3
        return jax.lax.fori_loop(0, len(w_ro) // size, part, (*empty, grids))

    def _fitted(self, grids, start, w_go, owed_go):
        """The grids with that of the group that begins with input `start`.

        Its weights are taken as they make up for all errors before and are not yet rounded: then
        Σ L_ji e_i = 0 for each of them, the group's own e included.
        """
        number = start // self._size
        d_g = jax.lax.dynamic_slice_in_dim(self._factor.d, start, self._size)
        e_go = -self._factor.inverses[number] @ owed_go
        fitted = grid.fit(w_go - e_go, self._codes, d_g)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=number, axis=0)
        return Grid(*map(put, grids, fitted))


def _taken(start: jax.Array, size: int) -> Any:
    return functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)


def _passed_on(l_pr: jax.Array, errors_ro: jax.Array, first: jax.Array) -> jax.Array:
    """Σ L_ji e_i of the inputs before `first`, [P, O]; the errors of later ones are zero."""
    rows, least = len(errors_ro), 4 * BLOCK
    stops = [*range(least, rows, least), rows]

    def of(stop):
        return lambda: l_pr[:, :stop] @ errors_ro[:stop]

    return jax.lax.switch(first // least, [of(stop) for stop in stops])


def rounded(w: jax.Array, h: jax.Array, solving: Solving) -> Columns:
    """Plain rounding, in groups of inputs as they come; h is the Hessian [I, I]."""
    whole_range = dataclasses.replace(solving.codes, shrinks=1)
    codes, grids = grid.rounded(w, whole_range, solving.group_size)
    made = _columns(codes, grids, jnp.arange(len(w)) // (solving.group_size or len(w)), None)
    errors = w - made.weights
    return made._replace(loss=sums.of_squared_errors(h, errors))


def _columns(codes: jax.Array, grids: Grid, groups: jax.Array, loss: Any) -> Columns:
    weights = grid.dequantise(codes, Grid(*(part[groups] for part in grids)))
    codes, zeros = codes.astype(jnp.uint8), grids.zero.astype(jnp.uint8)
    return Columns(codes, grids.scale, zeros, weights, loss)
