"""The matrices of one stage, which read the same inputs: one Hessian, one factor, one solution."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from belle_jax import sharding
from belle_jax.quantization import solver, sums
from belle_jax.quantization.solver import Columns, Solution, Solving

LADDER = (0.01, 0.1, 1.0, 10.0)
"""Higher damping that is tried, until a Hessian can be factored."""


@dataclasses.dataclass(frozen=True)
class Quantising:
    """How the matrices of a stage are quantised.

    Attributes:
        solving: Of each.
        damp: Fraction of a Hessian's mean diagonal that is added to it.
        propagate: Which share of the error that inputs come with is made up for, 0 to 1: weights
            are moved by that share of H⁻¹ C w before they are quantised.

    Source: Arai and Ichikawa, 2025 (Quantization error propagation), section 4.
    """

    solving: Solving
    damp: float = 0.01
    propagate: float = 0.0


def quantise(
    parts: Sequence[jax.Array], h: jax.Array, c: jax.Array | None, method: Quantising
) -> tuple[list[tuple[Solution, float, float]], float | None]:
    """Quantises matrices that read the same inputs.

    Args:
        parts: Weights, each of whose first axes make I together.
        h: Mean products of the inputs [I, I].
        c: Mean products with what the inputs lack; None: nothing is made up for.
        method: How.
    Returns:
        For each matrix its solution, its error and rounding's; and the damping (see `Outcome`).
    """
    with jax.default_matmul_precision('highest'):  # of float32, by all devices
        factored = damp = None
        for higher in (method.damp, *(step for step in LADDER if step > method.damp)):
            attempt = solver.factor(h, higher, method.solving)
            last = attempt.lower[len(h) - 1]
            if all(np.isfinite(sharding.on_host(a)).all() for a in (attempt.d, last)):
                factored, damp = attempt, higher
                break
        solved = _solved(list(parts), h, c, factored, method.solving, method.propagate)
    # On the host: what reads them next finds them whole on every device.
    solutions, errors = sharding.on_host(solved)
    made = zip(solutions, errors, strict=True)
    return [(one, float(error), float(rounding)) for one, (error, rounding) in made], damp


@functools.partial(jax.jit, static_argnames='solving')
def _solved(parts, h, c, factored, solving: Solving, propagate):
    """Solutions of each part, and the errors that they and rounding make.

    What is rounded better, is rounded.
    """
    parts = [part.reshape(len(h), -1) for part in parts]
    w = jnp.concatenate(parts, axis=1)
    early = len(h) < w.shape[1]  # H⁻¹ (C w) or (H⁻¹ C) w, whichever costs less
    if c is not None and factored is not None and early:
        c = sums.by_columns(lambda c, factored: solver.inverted(factored, c), (c,), factored)

    def of_columns(w, h, c, factored):
        plain = solver.rounded(w, h, solving)
        if factored is None:
            return plain, plain
        if c is not None:
            lacking = c @ w if early else solver.inverted(factored, c @ w)
            w = w + propagate * lacking
        return plain, solver.solve(w, factored, solving)

    plain, solved = sums.by_columns(of_columns, (w,), h, c, factored)
    in_order = jnp.arange(len(h), dtype=jnp.int32) // (solving.group_size or len(h))
    groups = in_order if factored is None else solver.groups_of(factored.order, solving)
    outcomes, errors, start = [], [], 0
    for part in parts:
        columns = slice(start, start := start + part.shape[1])
        one, other = (Columns(*(a[..., columns] for a in both)) for both in (solved, plain))
        error, rounding = one.loss.mean(), other.loss.mean()
        pairs = zip((*one[:-1], groups), (*other[:-1], in_order), strict=True)
        outcomes.append(Solution(*(jnp.where(error <= rounding, a, b) for a, b in pairs)))
        errors.append((jnp.minimum(error, rounding), rounding))
    return outcomes, errors
