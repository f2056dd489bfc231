"""The optimiser step: micro-batches, meshes, one compilation, frozen parameters."""
# JAX and NumPy arrays stand in for each other here, which their stubs do not know.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from belle_jax import config, models, sharding
from belle_jax.training.objectives import OBJECTIVES, NextToken
from belle_jax.training.partition import partition
from belle_jax.training.setup import Placement, Setup, lay_out

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


def set_up(architecture, made, shape=(1, 1, 1), accumulation=1, devices=1, train=None, **settings):
    rows, seq_len = made[0]['tokens'].shape
    run = config.Run(
        model=config.Model(architecture=architecture, remat='none', **settings),
        data=config.Data(seq_len=seq_len),
        batch=config.Batch(rows, accumulation),
        optim=OPTIM,
        mesh=config.Mesh(*shape),
        train=train or config.Train(),
    )
    return Setup(run, lay_out(run, architecture, jax.devices()[:devices]), len(made))


def train(architecture, made, *args, **settings):
    """Losses of steps over `made`, the last state, and the setup."""
    setup = set_up(architecture, made, *args, **settings)
    params = models.initialise(setup.blueprint, jax.random.key(0), setup.shardings)
    state, placement, losses = setup.state(params), setup.placement(), []
    with jax.set_mesh(setup.mesh):
        for number, batch in enumerate(made):
            state, metrics = setup.step(state, placement.put(batch), number)
            losses.append(float(metrics['loss']))
    return losses, state, setup


@pytest.mark.slow
@families
@pytest.mark.parametrize(
    'shape', [pytest.param((8, 1, 1), marks=pytest.mark.soak), (1, 8, 1), (2, 2, 2)]
)
def test_twenty_steps_on_eight_devices_lose_what_one_device_loses(family, shape):
    architecture = tiny.FAMILIES[family]
    made = batches(20)
    alone, _, _ = train(architecture, made)
    losses, state, setup = train(architecture, made, shape, devices=8)
    np.testing.assert_allclose(losses, alone, rtol=1e-5)
    assert losses[-1] != losses[0]
    assert setup.compilations == 1, 'the step compiles once'
    for tree in (state.trainable, state.optimiser):
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
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_frozen_parameters_stay_as_they_came_to_the_byte(family, dtype):
    architecture = tiny.FAMILIES[family]
    made = batches(3)
    setup = set_up(architecture, made, train=config.Train(only='layers.-1', freeze='*.bias'))
    last = f'blocks.{len(setup.blueprint.groups) - 1}.'
    params = models.regroup(
        tiny.params(architecture), models.Blueprint(architecture), setup.blueprint
    )
    trained = {n for n in params if n.startswith(last) and not n.endswith('.bias')}
    assert setup.blueprint.groups == (2, 1) and setup.shapes.trainable.keys() == trained
    params |= {n: p.astype(dtype) for n, p in params.items() if n not in trained}
    before = {n: (p.dtype, np.asarray(p).tobytes()) for n, p in params.items()}
    state, placement = setup.state(params), setup.placement()
    moments = [x for x in jax.tree.leaves(state.optimiser) if x.ndim]
    assert sum(x.size for x in moments) == 2 * sum(params[n].size for n in trained)
    with jax.set_mesh(setup.mesh):
        for number, batch in enumerate(made):
            state, metrics = setup.step(state, placement.put(batch), number)
    assert np.isfinite(metrics['loss'])
    assert state.frozen.keys() == params.keys() - trained
    after = {n: (p.dtype, np.asarray(p).tobytes()) for n, p in state.frozen.items()}
    assert after == {n: before[n] for n in state.frozen}
    assert all(np.asarray(p).tobytes() != before[n][1] for n, p in state.trainable.items())


@families
def test_training_a_part_takes_the_gradient_that_training_all_has_there(family):
    """In one group or three, scanned or not, the first moments of what is trained are the same."""
    architecture = tiny.FAMILIES[family]
    made = batches(1)
    whole, every, _ = train(architecture, made)
    part, some, setup = train(architecture, made, train=config.Train(freeze='embed, layers.1'))
    assert setup.blueprint.groups == (1, 1, 1)
    assert part == pytest.approx(whole, rel=1e-6)
    moments, wanted = _first_moments(some.optimiser), _first_moments(every.optimiser)
    # The norm that clips is that of the trained part alone.
    one = next(n for n in moments if n.startswith('blocks.0.'))
    scale = np.abs(moments[one]).max() / np.abs(wanted[one][:1]).max()
    for name, moment in moments.items():
        _, group, rest = name.split('.', 2) if name.startswith('blocks.') else ('', '', name)
        expected = wanted[f'blocks.0.{rest}'][int(group) :][:1] if group else wanted[rest]
        np.testing.assert_allclose(moment, scale * expected, atol=1e-5 * np.abs(moment).max())


def test_patterns_choose_what_is_trained():
    blueprint, trained = partition(
        models.Blueprint(tiny.LLAMA), only='layers.-1, layers.0.mlp, final_norm'
    )
    assert blueprint.groups == (1, 1, 1)
    assert {n for n in trained if '.2.' not in n} == {'final_norm.scale'} | {
        f'blocks.0.mlp.{layer}.{kind}'
        for layer in ('gate', 'up', 'down')
        for kind in ('kernel', 'bias')
    }
    assert not any(n.startswith('blocks.1.') for n in trained)
    assert partition(models.Blueprint(tiny.LLAMA))[0] == models.Blueprint(tiny.LLAMA)
    assert partition(models.Blueprint(tiny.BLOOM), freeze='embed')[1].isdisjoint({'embed.table'})
    assert 'embed_norm.scale' in partition(models.Blueprint(tiny.BLOOM), freeze='embed')[1]


@pytest.mark.parametrize(
    ('patterns', 'sentence'),
    [
        ({'only': 'layers.3'}, r"train\.only: 'layers\.3' matches no parameter"),
        ({'freeze': 'embed, hed'}, r"train\.freeze: 'hed' matches no parameter.* head\.table"),
        ({'only': 'embed', 'freeze': '*'}, 'leave nothing to train'),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(patterns, sentence):
    with pytest.raises(ValueError, match=sentence):
        partition(models.Blueprint(tiny.LLAMA), **patterns)


def test_an_objective_is_chosen_by_name_and_all_its_metrics_come_back(monkeypatch):
    class Counting(NextToken):
        name = 'counting'
        reductions: Mapping[str, str] = {'length': 'sum', 'share': 'mean'}

        def __call__(self, model, batch, dropout_key):
            total, weight, _ = super().__call__(model, batch, dropout_key)
            return total, weight, {'length': jnp.sum(batch['positions'] > 0), 'share': weight / 2}

    monkeypatch.setitem(OBJECTIVES, 'counting', Counting())
    made = batches(1)
    setup = set_up(tiny.LLAMA, made, accumulation=4, train=config.Train(objective='counting'))
    state = setup.state(models.initialise(setup.blueprint, jax.random.key(0), setup.shardings))
    with jax.set_mesh(setup.mesh):
        _, metrics = setup.step(state, setup.placement().put(made[0]), 0)
    assert metrics['length'] == (made[0]['positions'] > 0).sum() and metrics['share'] == 0.5
    with pytest.raises(ValueError, match=r"objective='dpo' is not known: choose one of next_token"):
        set_up(tiny.LLAMA, made, train=config.Train(objective='dpo'))


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
    assert all(np.isfinite(p).all() for p in state.trainable.values())


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


@dataclasses.dataclass(frozen=True)
class Described:
    """A device that is not there."""

    id: int
    platform: str
    slice_index: int
    process_index: int
    device_kind: str = ''


def described(platform, *places):
    """Devices by the slice and the process of each, numbered as they come."""
    return [Described(number, platform, *place) for number, place in enumerate(places)]


TWO_SLICES = [(n % 2, n % 4) for n in range(8)]  # even numbers are slice 0, of processes 0 and 2
TWO_MACHINES = [(0, n % 2) for n in range(8)]  # which know of one slice


@pytest.mark.parametrize('places', [TWO_SLICES, TWO_MACHINES])
def test_outer_axes_are_laid_over_slices_and_inner_ones_within(places):
    devices = described('gpu', *places)
    for shape, wanted in (
        (config.Mesh(1, -1, 1, dcn_data=2), [[[0], [2], [4], [6]], [[1], [3], [5], [7]]]),
        (config.Mesh(2, 1, 2, dcn_fsdp=2), [[[0, 2], [1, 3]], [[4, 6], [5, 7]]]),
    ):
        mesh = sharding.make_mesh(shape, devices)
        ids = np.vectorize(lambda d: d.id, otypes=[int])(mesh.devices)
        np.testing.assert_array_equal(ids, wanted)
        assert mesh.axis_names == sharding.MESH_AXES
    as_they_come = sharding.make_mesh(config.Mesh(), devices).devices.ravel()
    assert [d.id for d in as_they_come] == [*range(8)]


@pytest.mark.parametrize(
    ('mesh', 'devices', 'sentence'),
    [
        (
            config.Mesh(dcn_data=3),
            described('gpu', *TWO_SLICES),
            r'not fit 2 slices: .*Set --config\.mesh\.dcn_data=2 ',
        ),
        (config.Mesh(dcn_data=2), described('tpu', (0, 0), (0, 1)), 'does not fit 1 slice:'),
        (config.Mesh(dcn_data=2, tensor=3), described('gpu', *TWO_SLICES), 'the 4 of each slice'),
        (config.Mesh(dcn_data=2), described('gpu', (0, 0), (1, 1), (1, 1)), 'have 1, 2 devices'),
    ],
)
def test_outer_axes_that_do_not_fit_the_slices_are_refused(mesh, devices, sentence):
    with pytest.raises(ValueError, match=sentence):
        sharding.make_mesh(mesh, devices)


def test_a_mesh_that_does_not_divide_the_model_or_the_batch_is_refused():
    mesh = sharding.make_mesh(config.Mesh(1, 2, 4))
    with pytest.raises(ValueError, match=r'mesh\.tensor=4 does not divide kv_heads=2'):
        sharding.check_divides(tiny.LLAMA, mesh)
    odd = dataclasses.replace(tiny.LLAMA, embed=63)
    with pytest.raises(ValueError, match=r'mesh\.fsdp=2 does not divide embed=63'):
        sharding.check_divides(odd, mesh)
    with pytest.raises(ValueError, match='which mesh.data × mesh.fsdp = 2 does not divide'):
        sharding.check_batch(3, mesh)
