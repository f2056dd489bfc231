"""The quantisation of whole models: what layers read, what they become, where the work is done."""
# JAX and NumPy arrays stand in for each other here, which their stubs do not know.
# pyright: reportArgumentType=false

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from belle_jax import config, models, sharding
from belle_jax.families import Packing
from belle_jax.quantization import process, sums
from belle_jax.quantization.calibration import Calibration
from belle_jax.quantization.grid import Codes
from belle_jax.quantization.layer import LayerProgram, Walk
from belle_jax.quantization.matrices import Quantising
from belle_jax.quantization.process import Method, Quantiser
from belle_jax.quantization.rotation import Rotated, orthogonal
from belle_jax.quantization.solver import Solving
from belle_jax.quantization.tuning import Tuning
from belle_jax.weights import bitpacking

BOTH = pytest.mark.parametrize('family', tiny.FAMILIES)
PLAIN = Method(Quantising(Solving(Codes(4), 32)))
PROPAGATING = Method(Quantising(Solving(Codes(4), 32), propagate=0.5))


class Source:
    """Parameters in memory, a kind of `runs.parameters.Parameters`."""

    def __init__(self, architecture, **changed):
        self.architecture, self.dtype, self.packing = architecture, 'float32', None
        arrays = tiny.params(architecture)
        self.arrays = {name: np.array(array) for name, array in arrays.items()} | changed
        self.shapes = {name: array.shape for name, array in self.arrays.items()}

    def dtype_of(self, name):
        return self.arrays[name].dtype

    def read(self, name, index, dtype):
        return self.arrays[name][index].astype(dtype)


def text(architecture, samples=8, length=48, held=2, seed=0):
    """Text whose tokens follow each other by a rule, so that inputs are not all alike."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 40, (samples + held, length)).cumsum(axis=1) % architecture.vocab_size
    tokens = tokens.astype(np.int32)
    return Calibration(tokens[:samples], np.ones((samples, length), bool), tokens[samples:])


def quantised(source, method, calibration, **options):
    quantiser = Quantiser(source, method, calibration, **options)
    return quantiser, [quantiser.layer(i) for i in range(source.architecture.layers)]


def packed_model(source, layers, method):
    """The model that packed arrays are, by way of the parameters of its blueprint."""
    solving = method.matrices.solving
    packing = Packing(
        solving.codes.bits,
        solving.group_size,
        solving.codes.symmetric,
        solving.order == 'activations',
    )
    blueprint = models.Blueprint(source.architecture, packing=packing)
    arrays = {}
    for name, spec in models.specs(blueprint).items():
        if not name.startswith('blocks.'):
            whole = tuple(slice(0, n) for n in source.shapes[name])
            arrays[name] = source.read(name, whole, np.float32)
            continue
        product, _, part = name.removeprefix('blocks.0.').rpartition('.')
        rows = []
        for layer in layers:
            if product not in layer.solutions or part == 'bias':
                rows.append(layer.floats[f'{product}.{part}'])
                continue
            solution = layer.solutions[product]
            rows.append(
                bitpacking.pack(np.asarray(solution.codes), packing.bits)
                if part == 'words'
                else getattr(solution, part)
            )
        arrays[name] = np.stack(rows).reshape(spec.shape)
        if part == 'scales':
            arrays[name] = arrays[name].astype(np.float16)
    return models.build(blueprint, {name: jnp.asarray(array) for name, array in arrays.items()})


@BOTH
@pytest.mark.parametrize('order', ('groups', 'activations'))
def test_the_packed_model_computes_what_was_simulated(family, order):
    source = Source(tiny.FAMILIES[family])
    method = Method(
        Quantising(Solving(Codes(3, symmetric=False), 32, order)), tuning=Tuning(1, rows=4)
    )
    calibration = text(source.architecture)
    quantiser, layers = quantised(source, method, calibration)
    model = packed_model(source, layers, method)
    tokens = jnp.asarray(calibration.held)
    losses = model.token_losses(model.hidden(tokens)[:, :-1], tokens[:, 1:])
    np.testing.assert_allclose(losses.mean(axis=1), quantiser.losses()[1], rtol=1e-5)
    exact = models.build(models.Blueprint(source.architecture), source.arrays)
    losses = exact.token_losses(exact.hidden(tokens)[:, :-1], tokens[:, 1:])
    np.testing.assert_allclose(losses.mean(axis=1), quantiser.losses()[0], rtol=1e-5)


@BOTH
def test_no_matrix_is_worse_than_rounded_and_their_mean_is_much_better(family):
    source = Source(tiny.FAMILIES[family])
    quantiser, _ = quantised(source, PLAIN, text(source.architecture))
    ratios = [o.error / o.rounding for o in quantiser.outcomes]
    assert len(ratios) == sum(map(len, LayerProgram(source.architecture).stages)) * 3
    assert max(ratios) <= 1 and np.mean(ratios) <= 0.7


@BOTH
def test_hessians_are_sums_over_what_each_product_reads(family):
    """Against inputs that are computed here, for the first product and the last."""
    source = Source(tiny.FAMILIES[family])
    calibration = text(source.architecture, 2, 8)
    program = LayerProgram(source.architecture)
    params = {n: source.arrays[f'blocks.0.{n}'][0] for n in program.names}
    x = np.random.default_rng(0).standard_normal((2, 8, source.architecture.embed), np.float32)
    mask = calibration.mask.copy()
    mask[1, 5:] = False
    first = program.follow(params, 0, x, ())
    h = np.asarray(sums.of_products(first, first, mask, None), np.float64)
    norm = params['attention_norm.scale'], params.get('attention_norm.bias', 0)
    centred = x - x.mean(-1, keepdims=True) if family == 'bloom' else x
    size = np.sqrt((centred**2).mean(-1, keepdims=True) + source.architecture.norm_eps)
    read = (centred / size * norm[0] + norm[1])[mask].astype(np.float64)
    np.testing.assert_allclose(h, read.T @ read, rtol=1e-4, atol=1e-4)
    # Following a layer from stage to stage leads to where it leads.
    walk = Walk(program, x)
    for _ in program.stages:
        walk.follow(params)
    walk.end(params)
    np.testing.assert_allclose(walk.x_btd, program.apply(params, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('family', 'tuned'), (('llama', False), ('bloom', True)))
def test_what_is_held_is_the_texts_states_one_open_stage_and_one_layer(family, tuned, monkeypatch):
    """Bytes of all arrays that are alive, in the midst of layers and between them."""
    monkeypatch.setattr(process, 'STEP_TOKENS', 96)
    architecture = dataclasses.replace(tiny.FAMILIES[family], layers=4)
    source, calibration = Source(architecture), text(architecture, 32, held=0)
    method = dataclasses.replace(PROPAGATING, tuning=Tuning(1) if tuned else None)
    alive = []

    def now():
        return sum(array.nbytes for array in jax.live_arrays())

    def of_products(*given, real=sums.of_products):
        made = real(*given)
        alive[-1].append(now())
        return made

    monkeypatch.setattr(sums, 'of_products', of_products)
    start = now()
    quantiser, between = Quantiser(source, method, calibration), []
    for number in range(architecture.layers):
        alive.append([])
        quantiser.layer(number)
        gc.collect()
        between.append(now())
    layers = {name: a for name, a in source.arrays.items() if name.startswith('blocks.')}
    ends = sum(a.nbytes for name, a in source.arrays.items() if name not in layers)
    weights = sum(a[0].nbytes for a in layers.values())
    a_token = 4 * np.asarray((architecture.embed, architecture.mlp))
    states, opened = a_token * calibration.tokens.size
    batch = a_token.sum() * 96
    *whole, end = between
    assert np.ptp(whole) == 0 and whole[0] - start <= 2 * states + ends
    # The last layer is where the text ends, unless training has it read again.
    assert end - start == ends if not tuned else end == whole[0]
    # One of the two streams has a stage open; where layers are tuned, it keeps their start as well.
    most = (3 if tuned else 2) * states + opened + ends + 2 * weights + 8 * batch
    most += 4 * 4 * architecture.mlp**2  # sums and what is made of them
    peaks = [max(layer) for layer in alive]
    assert np.ptp(peaks[1:]) <= 2 * batch and max(peaks) - start <= most


def test_what_is_no_text_changes_nothing():
    source, calibration = Source(tiny.LLAMA), text(tiny.LLAMA)
    mask = calibration.mask.copy()
    mask[::2, 30:] = False
    found = []
    for filling in (0, 7):
        tokens = np.where(mask, calibration.tokens, filling)
        _, layers = quantised(source, PLAIN, Calibration(tokens, mask, calibration.held))
        found.append(layers)
    for one, other in zip(*found, strict=True):
        for name, solution in one.solutions.items():
            np.testing.assert_array_equal(solution.codes, other.solutions[name].codes)


def test_work_that_goes_on_from_finished_layers_ends_with_the_same_codes():
    source, calibration = Source(tiny.LLAMA), text(tiny.LLAMA)
    method = dataclasses.replace(PROPAGATING, tuning=Tuning(1, rows=4))
    whole, layers = quantised(source, method, calibration)
    again = Quantiser(source, method, calibration)
    again.layer(0, layers[0])
    again.layer(1, layers[1])
    last = again.layer(2)
    for name, solution in last.solutions.items():
        np.testing.assert_array_equal(solution.codes, layers[2].solutions[name].codes)
        np.testing.assert_array_equal(solution.scales, layers[2].solutions[name].scales)
    np.testing.assert_array_equal(again.losses(), whole.losses())


def test_what_a_model_is_quantised_to_does_not_depend_on_the_devices(monkeypatch):
    monkeypatch.setattr(process, 'STEP_TOKENS', 48)  # a row at a time on each device
    source, calibration = Source(tiny.LLAMA), text(tiny.LLAMA)
    method = PROPAGATING
    _, alone = quantised(source, method, calibration)
    with jax.set_mesh(sharding.make_mesh(config.Mesh(8, 1, 1))):
        _, together = quantised(source, method, calibration, devices=8)
    for one, other in zip(alone, together, strict=True):
        for name, solution in one.solutions.items():
            np.testing.assert_array_equal(solution.codes, other.solutions[name].codes)
            np.testing.assert_array_equal(solution.scales, other.solutions[name].scales)


def test_training_a_layer_brings_it_nearer_to_what_it_was():
    source, calibration = Source(tiny.LLAMA), text(tiny.LLAMA, samples=32)
    method = Method(Quantising(Solving(Codes(2), 32)), tuning=Tuning(4, rows=4))
    quantiser, layers = quantised(source, method, calibration)
    assert all(t.after < 0.8 * t.before for t in quantiser.tunings)
    for layer in layers:
        for solution in layer.solutions.values():
            scales = np.asarray(solution.scales)
            np.testing.assert_array_equal(scales, scales.astype(np.float16))
            codes = np.asarray(solution.codes).astype(np.float32)
            zeros = np.asarray(solution.zeros)[solution.groups].astype(np.float32)
            np.testing.assert_array_equal(
                scales[solution.groups] * (codes - zeros), solution.weights
            )


@pytest.mark.parametrize('tied', (False, True))
def test_a_turned_model_computes_what_it_did(tied):
    architecture = dataclasses.replace(tiny.LLAMA, tied=tied)
    source = Source(architecture)
    turned = Rotated(source, seed=3)
    assert not turned.architecture.tied and turned.shapes['head.table'] == (384, 64)
    arrays = {
        name: turned.read(name, tuple(slice(0, n) for n in shape), np.dtype(np.float32))
        for name, shape in turned.shapes.items()
    }
    tokens = jnp.asarray(text(architecture).held)
    before = models.build(models.Blueprint(architecture), source.arrays)(tokens)
    after = models.build(models.Blueprint(turned.architecture), arrays)(tokens)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=2e-4)
    assert (arrays['blocks.0.mlp_norm.scale'] == 1).all()
    kernel = 'blocks.0.attention.query.kernel'
    change = np.abs(arrays[kernel] - source.arrays[kernel]).mean()
    assert change > 0.5 * np.abs(source.arrays[kernel]).mean()


@pytest.mark.parametrize('size', (8, 24, 172))
def test_turning_loses_nothing(size):
    matrix = np.asarray(orthogonal(size, np.random.default_rng(0)), np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), atol=1e-6)


def test_a_family_whose_norms_take_a_mean_away_is_not_turned():
    with pytest.raises(ValueError, match=r'--rotate does not go with a bloom model'):
        Rotated(Source(tiny.BLOOM), seed=0)


def test_weights_that_are_not_finite_are_told_with_their_place():
    source = Source(tiny.LLAMA)
    source.arrays['blocks.0.mlp.up.kernel'][1, 3, 5] = np.nan
    quantiser = Quantiser(source, PLAIN, text(tiny.LLAMA))
    quantiser.layer(0)
    with pytest.raises(ValueError, match=r'^mlp\.up\.kernel of layer 1 holds numbers that are not'):
        quantiser.layer(1)


def test_of_a_symmetric_sum_half_is_computed():
    """In strips, of which there are two here, to the bit what the whole product gives."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 40, 2, 600), np.float32))
    mask = jnp.asarray(rng.random((2, 40)) < 0.8)
    before = jnp.asarray(np.ones((1200, 1200), np.float32))
    found = sums.of_squares(x, mask, before)
    np.testing.assert_array_equal(found, sums.of_products(x, x, mask, before))
    read = np.asarray(x, np.float64).reshape(80, -1)[np.asarray(mask).ravel()]
    np.testing.assert_allclose(found, 1 + read.T @ read, rtol=1e-4, atol=1e-4)
    errors = rng.standard_normal((1200, 3)).astype(np.float32)
    expected = np.sum(errors * (np.asarray(found, np.float64) @ errors), axis=0)
    np.testing.assert_allclose(sums.of_squared_errors(found, errors), expected, rtol=1e-4)
