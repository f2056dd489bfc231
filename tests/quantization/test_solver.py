"""GPTQ of one matrix against the paper's algorithm, written here in NumPy with the inverse."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax.quantization import grid, matrices, solver
from belle_jax.quantization.grid import Codes
from belle_jax.quantization.solver import Solving

CASES = (
    # inputs, outputs, bits, group size, symmetric, order
    (256, 40, 4, 128, True, 'none'),
    (256, 33, 3, 32, False, 'none'),
    (200, 33, 4, 48, False, 'none'),
    (172, 64, 4, 0, True, 'none'),
    (172, 64, 8, 32, True, 'groups'),
    (512, 40, 2, 256, False, 'none'),
    (256, 40, 4, 64, True, 'activations'),
    (300, 40, 3, 64, False, 'groups'),
    (300, 40, 2, 0, True, 'groups'),
)
WORST = {2: 0.9, 3: 0.8, 4: 0.8, 8: 0.8}


def problem(inputs, outputs, spread, dtype: Any = np.float64, seed=0):
    """Weights [I, O] and sums of products [I, I] of correlated inputs of different sizes."""
    rng = np.random.default_rng(seed)
    mix = np.eye(inputs) + 0.3 * rng.standard_normal((inputs, inputs)) / np.sqrt(inputs)
    x = (
        rng.standard_normal((2 * inputs, inputs))
        @ mix
        * np.exp(spread * rng.standard_normal(inputs))
    )
    return rng.standard_normal((inputs, outputs)).astype(dtype), (x.T @ x).astype(dtype)


def reference(w_io, h, solving, order, damp=0.01):
    """Algorithm 1 of Frantar et al., 2022, with the group's grid from the weights of the moment.

    Returns codes, what they stand for, and how near each weight was to the next code's.
    """
    w, h, n = w_io.T[:, order].copy(), h.copy(), len(h)
    h += damp * np.mean(np.diag(h)) * np.eye(n)
    u = np.linalg.cholesky(np.linalg.inv(h[order][:, order])).T
    codes, size = solving.codes, solving.group_size or n
    code, out, near = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    for i in range(n):
        if i % size == 0:
            group = w[:, i : i + size]
            low, high = np.minimum(group.min(1), 0), np.maximum(group.max(1), 0)
            if codes.symmetric:
                high = np.maximum(-low, high)
                low = -high
            scale = ((high - low) / codes.top).astype(np.float16).astype(np.float64)
            zero = np.full_like(scale, 2 ** (codes.bits - 1))
            if not codes.symmetric:
                zero = np.clip(np.round(-low / scale), codes.lowest_zero, codes.top)
        code[:, i] = np.clip(np.round(w[:, i] / scale) + zero, 0, codes.top)
        near[:, i] = np.abs(w[:, i] / scale - np.floor(w[:, i] / scale) - 0.5)
        out[:, i] = scale * (code[:, i] - zero)
        w[:, i:] -= np.outer((w[:, i] - out[:, i]) / u[i, i], u[i, i:])
    back = np.argsort(order)
    return code[:, back].T, out[:, back].T, near[:, back].T


def solved(w, h, solving, damp=0.01):
    factored = solver.factor(jnp.asarray(h), damp, solving)
    found = jax.jit(solver.solve, static_argnames='solving')(
        jnp.asarray(w), factored, solving=solving
    )
    groups = solver.groups_of(factored.order, solving)
    made = solver.Solution(found.codes, found.scales, found.zeros, found.weights, groups)
    return np.asarray(factored.order), jax.device_get((made, found.loss))


@pytest.mark.parametrize(('inputs', 'outputs', 'bits', 'size', 'symmetric', 'order'), CASES)
def test_codes_are_those_of_the_paper(inputs, outputs, bits, size, symmetric, order):
    solving = Solving(Codes(bits, symmetric), size, order)
    w, h = problem(inputs, outputs, 0.5)
    with jax.enable_x64(True):
        taken, (found, loss) = solved(w, h, solving)
    code, out, near = reference(w, h, solving, taken)
    assert sorted(taken) == list(range(inputs))
    certain = near > 1e-9
    np.testing.assert_array_equal(found.codes[certain], code[certain])
    np.testing.assert_allclose(found.weights[certain], out[certain], rtol=1e-12)
    # What is stored is what was computed with.
    scales, zeros = found.scales[found.groups], found.zeros[found.groups].astype(float)
    np.testing.assert_array_equal(scales * (found.codes - zeros), found.weights)
    np.testing.assert_array_equal(found.scales, found.scales.astype(np.float16))
    # In float32 the same codes but for a few on the edge.
    _, (single, _) = solved(w.astype(np.float32), h.astype(np.float32), solving)
    assert (single.codes == code).mean() >= 0.999
    # And it is worth it.
    errors = w - found.weights
    np.testing.assert_allclose(loss, np.sum(errors * (h @ errors), axis=0), rtol=1e-9)
    plain = jax.device_get(
        solver.rounded(jnp.asarray(w, jnp.float32), jnp.asarray(h, jnp.float32), solving)
    )
    errors = w - plain.weights
    np.testing.assert_allclose(plain.loss, np.sum(errors * (h @ errors), axis=0), rtol=1e-4)
    assert loss.sum() < WORST[bits] * plain.loss.sum()


@pytest.mark.parametrize('order', solver.ORDERS)
def test_an_ill_conditioned_problem_is_solved_as_well(order):
    solving = Solving(Codes(3), 64, order)
    w, h = problem(256, 40, 2.5)
    eigenvalues = np.linalg.eigvalsh(h + 0.01 * np.mean(np.diag(h)) * np.eye(len(h)))
    assert np.linalg.cond(h) > 1e6 and eigenvalues[-1] / eigenvalues[0] > 1e3
    taken, (single, _) = solved(w.astype(np.float32), h.astype(np.float32), solving)
    _, out, _ = reference(w, h, solving, taken)
    losses = [np.vdot(w - one, h @ (w - one)) for one in (single.weights.astype(float), out)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)


def test_groups_come_whole_and_those_with_the_largest_activations_first():
    h = np.diag([1.0, 5, 2, 9, 3, 4, 8, 7, 6, 10])
    order = solver.order_of(jnp.asarray(h), Solving(Codes(4), 4, 'groups'))
    assert np.asarray(order).tolist() == [3, 1, 2, 0, 6, 7, 5, 4, 9, 8]


def test_a_file_of_the_first_version_gets_no_zero_of_0():
    w, h = problem(128, 40, 0.5)
    lowest = {}
    for least in (0, 1):
        _, (found, _) = solved(np.abs(w), h, Solving(Codes(4, False, least), 64, 'none'))
        lowest[least] = found.zeros.min()
    assert lowest == {0: 0, 1: 1}


def test_a_smaller_range_is_taken_where_it_loses_less():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((128, 16)).astype(np.float32)
    w[3] *= 8  # one input whose weights are out of the way, and which matters little
    importance = np.where(np.arange(128) == 3, 1e-4, 1).astype(np.float32)
    errors = []
    for shrinks in (1, 20):
        codes = Codes(3, shrinks=shrinks)
        one = grid.fit(jnp.asarray(w), codes, jnp.asarray(importance))
        other = grid.dequantise(grid.quantise(jnp.asarray(w), one, codes), one)
        errors.append(float(np.sum(importance[:, None] * np.square(w - other))))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize('sign', (1, -1))
def test_the_side_on_which_weights_reach_further_has_the_code_more(sign):
    w = sign * np.float32(0.5) * np.random.default_rng(0).integers(-1, 3, (64, 8))
    codes = Codes(2, shrinks=3)  # a reach of 1 is tried, of 0.75 and of 0.5
    one = grid.fit(jnp.asarray(w, jnp.float32), codes)
    np.testing.assert_array_equal(one.scale, np.full(8, -0.5 * sign))
    np.testing.assert_array_equal(grid.dequantise(grid.quantise(w, one, codes), one), w)


def test_what_inputs_lack_is_made_up_for():
    """With all of it, weights are those of the least squares."""
    rng = np.random.default_rng(0)
    exact, w = rng.standard_normal((400, 64)), rng.standard_normal((64, 8))
    read = exact + 0.3 * rng.standard_normal(exact.shape)
    h, c = read.T @ read, read.T @ (exact - read)
    with jax.enable_x64(True):
        factored = solver.factor(jnp.asarray(h), 0.0, Solving(Codes(4), 0, 'activations'))
        lacking = np.asarray(solver.inverted(factored, jnp.asarray(c @ w)))
    best = np.linalg.lstsq(read, exact @ w, rcond=None)[0]
    np.testing.assert_allclose(w + lacking, best, rtol=1e-9)
    # With half of it, they are quantised from half-way, whether H⁻¹ meets C or C w first: that
    # goes by the number of outputs.
    h, c = h / len(read), c / len(read)
    method = matrices.Quantising(Solving(Codes(4), 32))
    halfway = dataclasses.replace(method, propagate=0.5)
    for outputs in (96, 48):
        w = rng.standard_normal((64, outputs))
        damped = h + method.damp * np.diag(h).mean() * np.eye(64)
        target = w + 0.5 * np.linalg.solve(damped, c @ w)
        w, target, h32, c32 = (jnp.asarray(a.astype(np.float32)) for a in (w, target, h, c))
        ((found, *_),) = matrices.quantise([w], h32, c32, halfway)[0]
        ((expected, *_),) = matrices.quantise([target], h32, None, method)[0]
        ((unmoved, *_),) = matrices.quantise([w], h32, None, method)[0]
        assert (found.codes == expected.codes).mean() >= 0.999
        assert (found.codes == unmoved.codes).mean() < 0.9


@pytest.mark.parametrize('size', (0, 32, 128, 256))
def test_a_hessian_is_inverted_in_blocks(size):
    """Of more inputs than one product passes on, which no block divides."""
    w, h = problem(1100, 3, 0.5)
    with jax.enable_x64(True):
        factored = solver.factor(jnp.asarray(h), 0.0, Solving(Codes(4), size))
        found = solver.inverted(factored, jnp.asarray(w))
    np.testing.assert_allclose(found, np.linalg.solve(h, w), rtol=1e-8)


def test_damping_climbs_until_it_holds_and_else_weights_are_rounded():
    w, h = problem(64, 8, 0.5, np.float32)
    method = matrices.Quantising(Solving(Codes(4), 32))
    ((_, error, rounding),) = matrices.quantise([jnp.asarray(w)], jnp.asarray(h), None, method)[0]
    assert error < rounding
    # An eigenvalue of -0.05 times the mean of the diagonal takes a tenth of it, not a hundredth.
    values, vectors = np.linalg.eigh(h)
    values[0] = -0.05 * np.diag(h).mean()
    bent = (vectors * values @ vectors.T).astype(np.float32)
    assert matrices.quantise([jnp.asarray(w)], jnp.asarray(bent), None, method)[1] == 0.1
    undamped = matrices.Quantising(method.solving, damp=0.0)
    assert matrices.quantise([jnp.asarray(w)], jnp.asarray(bent), None, undamped)[1] == 0.1
    outcomes, damp = matrices.quantise([jnp.asarray(w)], jnp.asarray(-1e3 * h), None, method)
    plain = solver.rounded(jnp.asarray(w), jnp.asarray(h), method.solving)
    assert damp is None
    np.testing.assert_array_equal(outcomes[0][0].codes, plain.codes)


def test_an_input_that_is_never_anything_may_become_anything():
    w, h = problem(64, 8, 0.5, np.float32)
    h[5], h[:, 5] = 0, 0
    method = matrices.Quantising(Solving(Codes(4), 32))
    ((solution, _, _),) = matrices.quantise([jnp.asarray(w)], jnp.asarray(h), None, method)[0]
    others = np.arange(64) != 5
    without, _, _ = matrices.quantise(
        [jnp.asarray(w * others[:, None])], jnp.asarray(h), None, method
    )[0][0]
    assert np.isfinite(solution.weights).all()
    assert np.isfinite(without.weights).all()
