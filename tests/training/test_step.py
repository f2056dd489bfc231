"""The optimiser step: micro-batches, meshes, one compilation, frozen parameters."""
# JAX and NumPy arrays stand in for each other here, which their stubs do not know.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from belle_jax import config, models, sharding
from belle_jax.training import optim
from belle_jax.training.batches import Placement
from belle_jax.training.objectives import next_token
from belle_jax.training.step import State, compile_step, make_step

families = pytest.mark.parametrize('family', ['llama', 'bloom'])
OPTIM = config.Optim(
    learning_rate=1e-3, warmup_steps=5, weight_decay=0.01, clip_norm=1.0, schedule='cosine'
)


def batches(count, rows=8, seq_len=32):
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        lengths = [[int(a), int(b)] for a, b in rng.integers(3, seq_len // 2, (rows, 2))]
        made.append(tiny.packed_batch(lengths, seq_len, seed=seed))
    return made


def train(architecture, made, shape=(1, 1, 1), accumulation=1, devices=1, **settings):
    """Losses of steps over `made`, the last state, and the compiled step."""
    mesh = sharding.make_mesh(config.Mesh(*shape), jax.devices()[:devices])
    specs = models.specs(architecture)
    optimiser = optim.make(OPTIM, len(made), specs)
    shardings = sharding.of_parameters(mesh, specs)
    params = models.initialise(architecture, jax.random.key(0), shardings)
    where = State(
        shardings,
        optim.state_shardings(optimiser, params, shardings, sharding.named(mesh, ())),
    )
    execution = models.Execution(**settings)
    step = compile_step(
        make_step(architecture, execution, next_token, optimiser, seed=0), where, mesh
    )
    state = State(params, jax.jit(optimiser.init, out_shardings=where.optimiser)(params))
    rows, seq_len = made[0]['tokens'].shape
    placement = Placement(mesh, rows, accumulation, seq_len)
    losses = []
    with jax.set_mesh(mesh):
        for number, batch in enumerate(made):
            state, metrics = step(
                state.params, {}, state.optimiser, placement.put(batch), np.int32(number)
            )
            losses.append(float(metrics['loss']))
    return losses, state, step


@pytest.mark.slow
@families
@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_twenty_steps_on_eight_devices_lose_what_one_device_loses(family, shape):
    architecture = tiny.FAMILIES[family]
    made = batches(20)
    alone, _, _ = train(architecture, made)
    losses, state, step = train(architecture, made, shape, devices=8)
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
    assert losses[-1] != losses[0]
    assert step._cache_size() == 1, 'the step compiles once'
    for tree in (state.params, state.optimiser):
        leaves = jax.tree.leaves(tree)
        total = sum(x.nbytes for x in leaves)
        for device in jax.devices():
            held = sum(
                s.data.nbytes for x in leaves for s in x.addressable_shards if s.device == device
            )
            assert held <= 1.1 * total / (shape[1] * shape[2])


@families
def test_four_micro_batches_equal_one(family):
    architecture = tiny.FAMILIES[family]
    made = batches(1)
    # Unequal numbers of trained tokens: a mean of means would differ.
    made[0]['weights'][:2] = 0
    one, state_1, _ = train(architecture, made)
    four, state_4, _ = train(architecture, made, accumulation=4)
    assert four == pytest.approx(one, rel=1e-5)
    moments_1, moments_4 = (_first_moments(s.optimiser) for s in (state_1, state_4))
    for name, moment in moments_1.items():
        difference = np.abs(moment - moments_4[name]).max()
        assert difference <= 1e-5 * np.abs(moment).max(), name


def _first_moments(optimiser_state):
    """After one step from zero they are the clipped gradient times 1 - beta1."""
    found = [
        s.mu
        for s in jax.tree.leaves(optimiser_state, is_leaf=lambda s: hasattr(s, 'mu'))
        if hasattr(s, 'mu')
    ]
    return found[0]


@families
def test_frozen_parameters_stay_bit_identical_and_may_be_bfloat16(family):
    architecture = tiny.FAMILIES[family]
    params = tiny.params(architecture)
    trained = {n: p for n, p in params.items() if '.mlp.' in n}
    frozen = {n: p.astype(jnp.bfloat16) for n, p in params.items() if n not in trained}
    optimiser = optim.make(OPTIM, 3, {n: models.specs(architecture)[n] for n in trained})
    step = jax.jit(make_step(architecture, models.Execution(), next_token, optimiser, seed=0))
    state = optimiser.init(trained)
    before = dict(trained)
    for number, batch in enumerate(batches(3)):
        batch = {k: v[None] for k, v in batch.items()}
        (trained, state), metrics = step(trained, frozen, state, batch, np.int32(number))
    assert all(bool((trained[n] != before[n]).any()) for n in trained)
    assert trained.keys() == before.keys()
    assert np.isfinite(metrics['loss'])


@pytest.mark.slow
@families
def test_dropout_is_the_same_on_every_mesh_and_differs_by_step(family):
    architecture = tiny.FAMILIES[family]
    made = batches(1) * 2
    settings = {'hidden_dropout': 0.1, 'attention_dropout': 0.1}
    alone, _, _ = train(architecture, made, **settings)
    spread, _, _ = train(architecture, made, (2, 2, 2), devices=8, **settings)
    np.testing.assert_allclose(spread, alone, rtol=1e-5)
    plain, _, _ = train(architecture, made)
    # The first update has rate 0, so both steps see the same parameters; only dropout differs.
    assert plain[0] == pytest.approx(plain[1], rel=1e-6)
    assert abs(alone[0] - alone[1]) > 1e-4 and abs(alone[0] - plain[0]) > 1e-4


def test_a_batch_without_trained_tokens_moves_nothing_by_its_gradient():
    made = batches(1)
    made[0]['weights'][:] = 0
    losses, state, _ = train(tiny.LLAMA, made)
    assert losses == [0.0]
    assert all(np.isfinite(p).all() for p in state.params.values())


def test_placement_gives_every_row_to_the_micro_batch_that_it_belongs_to():
    mesh = sharding.make_mesh(config.Mesh(2, 2, 2))
    placement = Placement(mesh, 16, 2, 4)
    rows = np.arange(16)[:, None] * np.ones((1, 4), np.int32)
    placed = placement.put({'tokens': rows[list(placement.rows)]})['tokens']
    np.testing.assert_array_equal(placed[..., 0], np.arange(16).reshape(2, 8))
    assert placed.sharding == placement.sharding


@pytest.mark.parametrize(
    ('mesh', 'sentence'),
    [
        (config.Mesh(3, -1, 1), 'does not fit 8 devices'),
        (config.Mesh(-1, -1, 1), '-1 on one axis alone'),
        (config.Mesh(2, 2, 1), 'the product of the axes must be 8'),
        (config.Mesh(1, 0, 1), 'each axis is at least 1'),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(mesh, sentence):
    with pytest.raises(ValueError, match=sentence):
        sharding.make_mesh(mesh)


def test_a_mesh_that_does_not_divide_the_model_or_the_batch_is_refused():
    mesh = sharding.make_mesh(config.Mesh(1, 2, 4))
    with pytest.raises(ValueError, match=r'mesh\.tensor=4 does not divide kv_heads=2'):
        sharding.check_divides(tiny.LLAMA, mesh)
    odd = dataclasses.replace(tiny.LLAMA, embed=63)
    with pytest.raises(ValueError, match=r'mesh\.fsdp=2 does not divide embed=63'):
        sharding.check_divides(odd, mesh)
    with pytest.raises(ValueError, match='which mesh.data × mesh.fsdp = 2 does not divide'):
        sharding.check_batch(3, mesh)
