"""Moments in 8 bits and in the host's memory: what they keep, and that runs are as without."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
import training_runs
from belle_jax import config, models
from belle_jax.training import optim, small_state
from belle_jax.training.loop import Trainer


def moments(rule, grads):
    """The first and second moments after some steps, float32."""
    params = {'w': jnp.zeros(grads[0].shape)}
    state = rule.init(params)
    for g in grads:
        _, state = rule.update({'w': g}, state, params)
    found = small_state._decoded(state)
    return np.asarray(found.mu['w']), np.asarray(found.nu['w'])


def test_moments_in_eight_bits_are_those_of_float32_to_what_eight_bits_tell_apart():
    # gradients of a block differ a thousandfold, and come and go: a second moment that is rounded
    # to the nearest would stay where its largest gradient has brought it
    rng = np.random.default_rng(0)
    scale = 10 ** rng.uniform(-3, 0, (64, 512))
    grads = [jnp.asarray(scale * rng.normal(size=scale.shape), jnp.float32) for _ in range(400)]
    rule = optax.scale_by_adam(b2=0.99)
    (mu, nu), (mu8, nu8) = (moments(r, grads) for r in (rule, small_state.in_eight_bits(rule)))
    large = np.abs(mu) > np.abs(mu).max(axis=1, keepdims=True) / 1000
    assert np.median(np.abs(mu8 - mu)[large] / np.abs(mu)[large]) < 0.1
    ratio = np.sqrt(nu8 / nu)
    assert abs(np.median(ratio) - 1) < 0.02 and np.std(np.log(ratio)) < 0.2
    assert nu8.min() > 0


def test_what_is_rounded_by_chance_is_right_on_average_and_what_is_exact_stays():
    exact = jnp.asarray([1.0, 1.125, 240.0, 448.0, 2.0**-6])
    key = jax.random.key(1)
    np.testing.assert_array_equal(small_state._by_chance(exact, key), exact)
    between = jnp.full(100_000, 1.03)
    drawn = small_state._by_chance(between, key)
    assert set(np.unique(drawn)) == {1.0, 1.125}
    assert abs(float(drawn.mean()) - 1.03) < 1e-3


def run_of(folder, **fields) -> config.Run:
    """Four steps of a tiny LLaMA; two micro-batches."""
    c = training_runs.configured(folder)
    c.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    c.batch.update(size=16, accumulation=2)
    c.optim.update(learning_rate=1e-2, warmup_steps=0, **fields)
    c.train.update(steps=4, checkpoint_every=2)
    return config.resolve(c)


SOAKED = [pytest.param(name, marks=pytest.mark.soak) for name in ('lion', 'galore')]


@pytest.mark.parametrize('name', ['adamw', 'adafactor', 'muon', *SOAKED])
def test_layer_after_layer_masters_become_what_a_rule_makes_of_all_at_once(name):
    specs = models.specs(models.Blueprint(tiny.LLAMA))
    settings = config.Optim(name=name, clip_norm=0.5, learning_rate=1e-2, weight_decay=0.1, rank=4)
    rng = np.random.default_rng(0)

    def drawn():
        arrays = {n: rng.normal(size=spec.shape) for n, spec in specs.items()}
        return {n: jnp.asarray(a, 'bfloat16') for n, a in arrays.items()}

    def wide(tree):
        return {n: a.astype('float32') for n, a in tree.items()}

    params: Any = drawn()
    grads = [drawn() for _ in range(3)]
    whole, layered = (
        optim.make(dataclasses.replace(settings, offload=offload), 10, specs)
        for offload in (False, True)
    )
    held: Any = wide(params)
    state, other = whole.init(held), layered.init(params)
    weight = jnp.float32(3)
    move = jax.jit(functools.partial(optim.moved, layered))
    for grad in grads:
        held, state, _ = optim.moved(whole, wide(grad), weight, state, held)
        params, other, _ = move(grad, weight, other, params)
    masters: Any = other['masters']  # type: ignore[index]
    for n, master in masters.items():
        np.testing.assert_allclose(master, held[n], rtol=2e-5, atol=2e-6, err_msg=n)
        np.testing.assert_array_equal(params[n], master.astype('bfloat16'))


def test_without_masters_the_trained_weights_are_what_is_exported(tmp_path):
    trainer = Trainer(run_of(tmp_path, moment_dtype='8bit'), tmp_path / 'run')
    trainer.train()
    saved = training_runs.parameters(tmp_path / 'run')
    assert saved.keys() == trainer.state.trainable.keys()
    for name, value in trainer.state.trainable.items():
        np.testing.assert_array_equal(saved[name], value)


@pytest.mark.parametrize(
    'fields',
    [
        pytest.param({'offload': True}, marks=pytest.mark.soak, id='host'),
        pytest.param({'offload': True, 'moment_dtype': '8bit'}, id='both'),
    ],
)
def test_a_run_is_continued_exactly_on_any_mesh_and_learns_what_float32_learns(
    tmp_path, fields, monkeypatch
):
    monkeypatch.setattr(small_state, 'LEAST', 256)  # a layer's arrays are that small
    run = run_of(tmp_path, **fields)
    whole = Trainer(run, tmp_path / 'whole')
    whole.train()
    state = whole.state
    assert {p.dtype.name for p in state.trainable.values()} == {'bfloat16'}
    kinds = {
        leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim > 1
    }
    assert 'pinned_host' in kinds and (kinds == {'pinned_host'} or '8bit' in fields.values())
    for name, master in state.optimiser['masters'].items():
        np.testing.assert_array_equal(state.trainable[name], master.astype('bfloat16'))
    saved = training_runs.parameters(tmp_path / 'whole')  # what is exported and sampled from
    for name, master in state.optimiser['masters'].items():
        np.testing.assert_array_equal(saved[name], master)
    if 'moment_dtype' in fields:
        codes = [x for x in jax.tree.leaves(state.optimiser) if x.dtype == jnp.float8_e4m3fn]
        assert sum(x.size for x in codes) > 0.7 * 2 * sum(p.size for p in state.trainable.values())
    half = dataclasses.replace(run, train=dataclasses.replace(run.train, max_steps=2))
    Trainer(half, tmp_path / 'run').train()
    again = Trainer(run, tmp_path / 'run')
    again.train()
    before, after = (jax.tree.leaves(trainer.state.optimiser) for trainer in (whole, again))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    on_mesh = dataclasses.replace(run, mesh=config.Mesh(2, 2, 2))
    Trainer(on_mesh, tmp_path / 'mesh').train()
    Trainer(run_of(tmp_path), tmp_path / 'plain').train()
    losses = [training_runs.losses(tmp_path / name) for name in ('whole', 'mesh', 'plain')]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    np.testing.assert_allclose(losses[2], losses[0], rtol=2e-2)
    assert losses[0][-1] < losses[0][0] - 0.1
