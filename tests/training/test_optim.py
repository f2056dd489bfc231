"""Schedules and update rules against torch, transformers and arithmetic by hand."""
# JAX and NumPy arrays stand in for each other here, which their stubs do not know.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from belle_jax import config, models
from belle_jax.training import optim

STEPS = 40


def rates(**fields):
    schedule = optim.schedule(config.Optim(learning_rate=1e-3, **fields), STEPS)
    return [float(schedule(i)) for i in range(STEPS)]


@pytest.mark.parity
@pytest.mark.parametrize('name', ['linear', 'cosine'])
def test_schedules_are_those_of_transformers(name):
    torch = pytest.importorskip('torch')
    from transformers import get_scheduler

    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.SGD([parameter], lr=1e-3)
    scheduler = get_scheduler(name, theirs, num_warmup_steps=4, num_training_steps=STEPS)
    expected = []
    for _ in range(STEPS):
        expected.append(scheduler.get_last_lr()[0])
        theirs.step()
        scheduler.step()
    for fields in ({'warmup_ratio': 0.1}, {'warmup_steps': 4, 'warmup_ratio': 0.5}):
        np.testing.assert_allclose(rates(schedule=name, **fields), expected, rtol=1e-5, atol=1e-9)


def test_the_rate_ends_at_the_final_ratio_and_a_constant_one_stays():
    ended = optim.schedule(config.Optim(learning_rate=1.0, final_ratio=0.1), STEPS)
    assert float(ended(STEPS)) == pytest.approx(0.1)
    assert rates(schedule='constant', warmup_ratio=0.05) == pytest.approx([0, 5e-4] + [1e-3] * 38)
    # A warm-up of a fraction of a step is a whole one, as in transformers.
    assert rates(schedule='constant', warmup_ratio=0.001) == pytest.approx([0] + [1e-3] * 39)


def test_decay_leaves_biases_and_norms_alone():
    names = {
        **models.specs(models.Blueprint(tiny.LLAMA)),
        **models.specs(models.Blueprint(tiny.BLOOM)),
    }
    kept = {name for name in names if not optim.decays(name)}
    assert kept == {n for n in names if n.endswith('.bias') or 'norm' in n}
    assert optim.decays('blocks.0.attention.query.kernel') and optim.decays('head.table')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['adamw', 'lion', 'adafactor', 'galore'])
def test_a_rule_treats_each_layer_of_a_stack_alone(name):
    """Three layers stacked move as the same three layers in groups of their own."""
    architecture = tiny.LLAMA
    params = models.initialise(models.Blueprint(architecture), jax.random.key(0))
    grads = jax.tree.map(
        # The last channels matter less and less: singular vectors are then well apart (GaLore).
        lambda p: jnp.asarray(
            np.random.default_rng(0).normal(size=p.shape) * 0.5 ** np.arange(p.shape[-1]),
            jnp.float32,
        ),
        params,
    )
    whole = models.Blueprint(architecture)
    single, single_grads = (models.regroup(p, whole, whole.separated()) for p in (params, grads))
    settings = config.Optim(
        name=name, learning_rate=0.1, weight_decay=0.1, schedule='constant', rank=4
    )

    @jax.jit
    def moved(params, grads):
        specs = {
            n: models.ParamSpec(p.shape, s.axes, s.init)
            for n, p in params.items()
            if (s := models.specs(models.Blueprint(architecture))[_stacked(n)])
        }
        rule = optim.make(settings, STEPS, specs)
        state = rule.init(params)
        for _ in range(3):
            updates, state = rule.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    together = models.regroup(moved(params, grads), whole, whole.separated())
    for n, p in moved(single, single_grads).items():
        # A batch of matrices and one of them have singular vectors of other last bits.
        atol = 1e-5 if name == 'galore' else 1e-6
        np.testing.assert_allclose(together[n], p, rtol=1e-5, atol=atol, err_msg=n)


def _stacked(name):
    parts = name.split('.')
    return '.'.join([parts[0], '0', *parts[2:]]) if parts[0] == 'blocks' else name


def test_adafactor_sees_heads_as_part_of_a_matrix():
    specs = models.specs(models.Blueprint(tiny.LLAMA))
    rule = optim.make(config.Optim(name='adafactor', clip_norm=0.0), STEPS, specs)
    big = {
        n: models.ParamSpec((s.shape[0], 256, 2, 128), s.axes, s.init)
        for n, s in specs.items()
        if n.endswith('query.kernel')
    }
    rule = optim.make(config.Optim(name='adafactor', clip_norm=0.0), STEPS, big)
    state = rule.init({n: jnp.zeros(s.shape) for n, s in big.items()})
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert (3, 256) in shapes, 'rows and columns of [256, 2 · 128] for each of three layers'
    assert (3, 256, 2, 128) not in shapes and (3, 256, 256) not in shapes


def test_a_first_moment_may_be_bfloat16():
    params = models.initialise(models.Blueprint(tiny.BLOOM), jax.random.key(0))
    rule = optim.make(
        config.Optim(moment_dtype='bfloat16'), STEPS, models.specs(models.Blueprint(tiny.BLOOM))
    )
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(rule.init(params)) if leaf.ndim}
    assert dtypes == {'bfloat16', 'float32'}


def test_of_a_table_the_rows_before_the_first_that_is_trained_stay_to_the_byte():
    params = {'embed.table': jnp.ones((8, 4)), 'final_norm.scale': jnp.ones(4)}
    specs = {n: models.ParamSpec(p.shape, (None,) * p.ndim, 'normal') for n, p in params.items()}
    settings = config.Optim(learning_rate=0.1, weight_decay=0.1, schedule='constant')
    rule = optim.make(settings, STEPS, specs, rows_from=5)
    state = rule.init(params)
    moved: Any = params
    for step in range(1, 4):
        grads = {name: step * jnp.ones_like(p) for name, p in params.items()}
        updates, state = rule.update(grads, state, moved)
        moved = optax.apply_updates(moved, updates)
    table = np.asarray(moved['embed.table'])
    assert table[:5].tobytes() == np.ones((5, 4), np.float32).tobytes()
    assert (table[5:] < 0.8).all() and (np.asarray(moved['final_norm.scale']) < 0.8).all()


@pytest.mark.parametrize('name', ['adamw', 'adafactor', 'lion', 'muon', 'galore'])
@pytest.mark.parametrize('fields', [{}, {'moment_dtype': '8bit', 'offload': True}])
def test_no_array_of_a_state_is_empty_for_those_cannot_be_saved(name, fields):
    specs = models.specs(models.Blueprint(tiny.LLAMA))
    rule = optim.make(config.Optim(name=name, **fields), STEPS, specs)
    params = {n: jax.ShapeDtypeStruct(s.shape, 'float32') for n, s in specs.items()}
    assert all(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(rule.init, params)))
