"""GPTQ of one matrix: codes that keep a layer's outputs, not each weight by itself.

With the Cholesky factor H = R Rᵀ (R upper triangular) the error of the outputs is |Rᵀ e|², where e
is what rounding takes from the weights. Inputs are rounded one after the other; the weight of input
j is first moved by Σ_{i<j} R_ij e_i / R_jj, which makes up for all errors before it as well as this
weight can. That is GPTQ without the inverse of H that its authors go by: one factorisation, and
sums of errors in blocks.

    H = [[2, 1], [1, 2]], w = [0.4, 0.4], codes are whole numbers:
    R_12 / R_22 = 1 / 2;  0.4 -> 0, e = 0.4;  0.4 + 0.4 / 2 = 0.6 -> 1.  Rounding alone gives 0, 0.

Source: Frantar et al., 2022 (GPTQ), algorithm 1; Chen et al., 2025 (The geometry of LLM
quantization), section 4, for the form without an inverse.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from belle_jax.quantization import grid
from belle_jax.quantization.grid import Codes, Grid

BLOCK = 128
"""Inputs whose errors are passed on to each other at once, and to all later ones together."""

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
    def block(self) -> int:
        """Inputs of a block: whole groups, or a whole part of one."""
        size = self.group_size
        if not size:
            return BLOCK
        if size <= BLOCK:
            return size * (BLOCK // size)
        return next(n for n in range(BLOCK, 0, -1) if size % n == 0)


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
    """What solving needs of a Hessian H = R Rᵀ, whose inputs are put in order first."""

    order: jax.Array  # int32 [I], of the inputs
    r: jax.Array  # [I, I], the upper triangular R, each column divided by its diagonal
    scale: jax.Array  # [I], the diagonal
    added: jax.Array  # [I], what was added to the diagonal of H


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
    lower = jnp.linalg.cholesky(h[::-1, ::-1], symmetrize_input=False)
    upper = lower[::-1, ::-1]
    scale = jnp.diagonal(upper)
    return Factor(order, upper / scale, scale, added[order])


def propagated(w: jax.Array, factor: Factor, c: jax.Array, share: float) -> jax.Array:
    """Weights that make up for errors which their inputs have already: w + share · H⁻¹ C w.

    Args:
        w: Weights [I, O].
        factor: Of the Hessian.
        c: Sums of products of the inputs with what they lack [I, I].
        share: 0 to 1.
    Source: Arai and Ichikawa, 2025 (Quantization error propagation), section 4.
    """
    order, r, scale, _ = factor
    triangular = functools.partial(
        jax.lax.linalg.triangular_solve, r * scale, left_side=True, lower=False
    )
    moved = triangular(triangular((c @ w)[order]), transpose_a=True)
    return w + share * moved[jnp.argsort(order)]


def solve(w: jax.Array, factor: Factor, solving: Solving) -> Columns:
    """Quantises a matrix.

    Args:
        w: Weights [I, O].
        factor: Of the Hessian, by the same solving.
        solving: How.
    """
    order, r, scale, added = factor
    inputs, size, block = len(w), solving.group_size, solving.block
    pad = -inputs % (size if size > block else block)
    w_io = jnp.pad(w[order], ((0, pad), (0, 0)))
    r_ii = jnp.pad(r, ((0, pad), (0, pad))) + jnp.diag(jnp.arange(inputs + pad) >= inputs)
    # The error of an input counts by R_jj² once all later ones have made up for it.
    importance = jnp.pad(jnp.square(scale), (0, pad))
    count = -(-(inputs + pad) // size) if size else 1
    one = jnp.ones((count, w.shape[1]), w.dtype)
    grids = Grid(one, 0 * one)
    if not size:
        grids = Grid(*(part[None] for part in grid.fit(w_io, solving.codes, importance)))
    loop = _Loop(solving, w_io, r_ii, importance)
    zeros = jnp.zeros_like(w_io)
    state = zeros, zeros, zeros, grids
    codes, owed, errors, grids = jax.lax.fori_loop(0, len(w_io) // block, loop.block, state)
    codes, owed, errors = (a[:inputs] for a in (codes, owed, errors))
    # |Rᵀ e|² is the error with what was added to H.
    loss = jnp.square(scale) @ jnp.square(errors + owed) - added @ jnp.square(errors)
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


class _Loop:
    """The loop over blocks of inputs, in the order in which they are rounded.

    What an input owes, [I, O], is Σ R_ij e_i / R_jj: how far its weights are to move.
    """

    def __init__(self, solving: Solving, w_io, r_ii, importance):
        self._codes, self._size, self._block = solving.codes, solving.group_size, solving.block
        self._w, self._r, self._importance = w_io, r_ii, importance

    def block(self, number, carry):
        """Rounds a block, and adds its errors to what all later inputs owe.

        The carry: codes [I, O], what is owed when an input is rounded, errors, and grids [G, O].
        """
        codes, owed, errors, grids = carry
        start = number * self._block
        w_bo, owed_bo = (
            jax.lax.dynamic_slice_in_dim(a, start, self._block) for a in (self._w, owed)
        )
        r_bi = jax.lax.dynamic_slice_in_dim(self._r, start, self._block)
        r_bb = jax.lax.dynamic_slice_in_dim(r_bi, start, self._block, 1)
        if self._size > self._block:
            grids = jax.lax.cond(
                start % self._size == 0,
                lambda: self._fitted(grids, start, self._w, owed, self._r, start),
                lambda: grids,
            )
        within = self._size if 0 < self._size <= self._block else self._block

        def group(place, state):
            codes_bo, owed_bo, errors_bo, grids = state
            first = place * within
            if within == self._size:
                grids = self._fitted(grids, first, w_bo, owed_bo, r_bb, start + first)
            index = (start + first) // self._size if self._size else 0
            one = Grid(*(jax.lax.dynamic_index_in_dim(part, index, 0, False) for part in grids))
            column = functools.partial(self._column, w_bo, r_bb, one)
            state = codes_bo, owed_bo, errors_bo
            return (*jax.lax.fori_loop(first, first + within, column, state), grids)

        zeros = jnp.zeros_like(w_bo)
        state = zeros, owed_bo, zeros, grids
        codes_bo, owed_bo, errors_bo, grids = jax.lax.fori_loop(
            0, self._block // within, group, state
        )
        owed = owed + r_bi.T @ errors_bo
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return put(codes, codes_bo), put(owed, owed_bo), put(errors, errors_bo), grids

    def _column(self, w_bo, r_bb, one, j, state):
        """Rounds one input."""
        codes, owed, errors = state
        w_o, owed_o, r_b = (
            jax.lax.dynamic_index_in_dim(a, j, 0, False) for a in (w_bo, owed, r_bb)
        )
        code = grid.quantise(w_o + owed_o, one, self._codes)
        error = w_o - grid.dequantise(code, one)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=j, axis=0)
        later = jnp.arange(len(r_b)) > j
        owed = owed + jnp.where(later, r_b, 0)[:, None] * error
        return put(codes, code), owed, put(errors, error)

    def _fitted(self, grids, first, w, owed, r, start):
        """The grids with that of the group that begins in row `first` of w, which is input `start`.

        Its weights are taken as they make up for all errors before and are not yet rounded: then
        Σ R_ij e_i = 0 for each of them, the group's own e included.
        """
        take = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=first, slice_size=self._size
        )
        e_go = jax.lax.linalg.triangular_solve(
            take(take(r), axis=1), -take(owed), left_side=True, transpose_a=True, unit_diagonal=True
        )
        importance = jax.lax.dynamic_slice_in_dim(self._importance, start, self._size)
        fitted = grid.fit(take(w) - e_go, self._codes, importance)
        put = functools.partial(
            jax.lax.dynamic_update_index_in_dim, index=start // self._size, axis=0
        )
        return Grid(*(put(all_of, one) for all_of, one in zip(grids, fitted, strict=True)))


def rounded(w: jax.Array, h: jax.Array, solving: Solving) -> Columns:
    """Plain rounding, in groups of inputs as they come; h is the Hessian [I, I]."""
    whole_range = dataclasses.replace(solving.codes, shrinks=1)
    codes, grids = grid.rounded(w, whole_range, solving.group_size)
    made = _columns(codes, grids, jnp.arange(len(w)) // (solving.group_size or len(w)), None)
    errors = w - made.weights
    return made._replace(loss=jnp.sum(errors * jnp.matmul(h, errors), axis=0))


def _columns(codes: jax.Array, grids: Grid, groups: jax.Array, loss: Any) -> Columns:
    weights = grid.dequantise(codes, Grid(*(part[groups] for part in grids)))
    byte = jnp.uint8
    return Columns(codes.astype(byte), grids.scale, grids.zero.astype(byte), weights, loss)
