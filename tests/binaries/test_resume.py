"""A run that is killed, stopped, damaged or out of disk ends where an undisturbed one does."""

import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest

import training_runs
from belle_jax import config
from belle_jax.training.loop import Trainer

SAVING = 'checkpoints/*.orbax-checkpoint-tmp'
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    """Flags that name the data, made once."""
    return training_runs.make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def undisturbed(flags, tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    training_runs.train(workdir, flags)
    return workdir


def assert_same(workdir, other):
    assert training_runs.losses(workdir) == training_runs.losses(other)
    ours, theirs = training_runs.parameters(workdir), training_runs.parameters(other)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize('kills', [4, pytest.param(25, marks=pytest.mark.soak)])
def test_killed_at_many_moments_a_run_ends_bit_for_bit_the_same(
    flags, undisturbed, tmp_path, kills
):
    workdir = tmp_path / 'run'
    rng = np.random.default_rng()
    # Kills after random steps, and one while a checkpoint is being written.
    targets = sorted(rng.choice(np.arange(1, 29), kills, replace=False).tolist())
    print('killed after steps', targets)
    saved = False
    for number, target in enumerate(targets):
        process = training_runs.start(workdir, flags)
        if number == 2 and not saved:
            saved = True
            training_runs.kill_when(process, lambda: any(workdir.glob(SAVING)))
            assert any(workdir.glob(SAVING)), 'the kill came inside a save'
            process = training_runs.start(workdir, flags)
        training_runs.kill_when(
            process, lambda target=target: training_runs.steps_done(workdir) >= target
        )
    training_runs.train(workdir, flags)
    assert_same(workdir, undisturbed)


def test_sigterm_saves_the_step_it_is_at_and_the_run_goes_on(flags, undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    process = training_runs.start(workdir, [*flags, '--config.train.checkpoint_every=-1'])
    while training_runs.steps_done(workdir) < 3:
        assert process.poll() is None
    # A scheduler sends to the group and to the process; however many come, they are one request.
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        process.send_signal(number)
    assert process.wait(timeout=300) == 143, 'saved, and not finished'
    done = training_runs.steps_done(workdir)
    assert 3 <= done < 30 and (workdir / 'checkpoints' / str(done)).is_dir()
    for _ in range(2):  # the second time there is nothing left to do
        training_runs.train(workdir, flags)
        assert_same(workdir, undisturbed)
        assert not list(workdir.rglob('.*'))


@pytest.mark.parametrize('damage', ['flipped bit', 'truncated file', 'missing file'])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    flags, undisturbed, tmp_path, damage
):
    workdir = tmp_path / 'run'
    shutil.copytree(undisturbed, workdir)
    state = workdir / 'checkpoints' / '30' / 'state'
    victim = max((p for p in state.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    if damage == 'flipped bit':
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == 'truncated file':
        victim.write_bytes(content[:-10])
    else:
        victim.unlink()
    training_runs.train(workdir, flags)
    log = workdir.with_suffix('.log').read_text()
    assert f'{victim.name}' in log and 'from step 25' in log
    assert_same(workdir, undisturbed)


def test_only_the_last_and_the_best_checkpoints_are_kept(flags, tmp_path):
    workdir = tmp_path / 'run'
    settings = ['eval_every=5', 'keep_last=2', 'keep_best=1', 'steps=25']
    training_runs.train(
        workdir,
        [
            *flags,
            *(f'--config.train.{s}' for s in settings),
            '--config.data.validation.count=20',
            '--config.optim.learning_rate=0.5',  # gets worse after the warm-up
            '--config.optim.schedule=constant',
            '--config.optim.warmup_steps=10',
        ],
    )
    lines = (workdir / 'metrics' / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    evaluated = {r['step']: r['evaluation_loss'] for r in records if 'evaluation_loss' in r}
    assert sorted(evaluated) == [5, 10, 15, 20, 25]
    best = min(evaluated, key=lambda step: evaluated[step])
    kept = {int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.is_dir()}
    assert kept == {best, 20, 25}
    assert (workdir / 'metrics' / 'loss.png').stat().st_size > 5000


def test_restored_on_another_mesh_a_run_is_exact(undisturbed, tmp_path):
    """The state restored on 2 × 2 × 2 is bit for bit the one saved on one device."""
    workdir = tmp_path / 'run'
    shutil.copytree(undisturbed, workdir)
    run = dataclasses.replace(config.load(workdir / 'config.json'), mesh=config.Mesh(2, 2, 2))
    trainer = Trainer(run, workdir)
    assert trainer.number == 30
    for name, value in training_runs.parameters(undisturbed).items():
        assert trainer.state.trainable[name].sharding == trainer.setup.shardings[name]
        np.testing.assert_array_equal(trainer.state.trainable[name], value, err_msg=name)
    moments = [x for x in jax.tree.leaves(trainer.state.optimiser) if x.ndim]
    trainer.saving.checkpoints.close()
    assert len(moments) > 20 and any(np.abs(m).max() > 0 for m in moments)


def test_what_may_not_change_in_a_run_is_refused_with_its_name(flags, undisturbed, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(undisturbed, workdir)
    process = training_runs.start(workdir, [*flags, '--config.optim.learning_rate=0.5'])
    assert process.wait(timeout=300) == 1
    last = workdir.with_suffix('.log').read_text().strip().splitlines()[-1]
    assert 'holds a run with another --config.optim.learning_rate' in last


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step(flags, tmp_path):
    workdir = tmp_path / 'run'
    wild = ['learning_rate=1e30', 'warmup_steps=8', 'clip_norm=0.0', 'schedule=constant']
    settings = [*(f'--config.optim.{s}' for s in wild), '--config.train.checkpoint_every=1']
    process = training_runs.start(workdir, [*flags, *settings])
    assert process.wait(timeout=300) == 1
    last = workdir.with_suffix('.log').read_text().strip().splitlines()[-1]
    assert 'the loss of step' in last and 'is not finite' in last
    assert all(np.isfinite(v).all() for v in training_runs.parameters(workdir).values())


def test_a_full_disk_ends_the_run_with_a_sentence_and_keeps_what_was_saved(flags, tmp_path):
    """A file size limit stands in for a disk: writing a checkpoint beyond it fails."""
    workdir = tmp_path / 'run'
    training_runs.train(workdir, [*flags, '--config.train.max_steps=5'])
    before = training_runs.parameters(workdir)
    process = training_runs.start(workdir, flags, file_limit=100_000)
    assert process.wait(timeout=300) == 1
    last = workdir.with_suffix('.log').read_text().strip().splitlines()[-1]
    assert 'could not be saved' in last and 'intact' in last
    for name, value in training_runs.parameters(workdir).items():
        np.testing.assert_array_equal(value, before[name])
