"""A run that trains a part of its model: what it leaves, how it goes on, and what is made of it."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import training_runs
from belle_jax import config, models
from belle_jax.formats import huggingface
from belle_jax.runs.conversion import to_huggingface
from belle_jax.runs.parameters import Arrays, Saved
from belle_jax.runs.run_directory import open_checkpoint
from belle_jax.training.loop import Trainer
from loaded import load_parameters


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Four steps that train the last layer and the final norm, with validation."""
    folder = tmp_path_factory.mktemp('frozen')
    c = training_runs.configured(folder)
    c.data.validation.count = 8
    c.train.update(only='layers.-1, final_norm', steps=4, checkpoint_every=2, eval_every=2)
    return config.resolve(c), folder


@pytest.fixture(scope='module')
def trained(run):
    settings, folder = run
    Trainer(settings, folder / 'run').train()
    return folder / 'run'


def test_the_checkpoint_holds_the_trained_part_and_the_frozen_one_stands_once(run, trained):
    checkpoint = open_checkpoint(trained)
    assert checkpoint.step == 4
    frozen = Arrays(dataclasses.replace(checkpoint, run=trained))
    whole = Saved(checkpoint)
    blueprint = models.Blueprint(whole.architecture)
    assert whole.shapes == {n: s.shape for n, s in models.specs(blueprint).items()}
    assert {n.split('.')[1] for n in frozen.shapes if n.startswith('blocks.')} == {'0', '1'}
    assert not (trained / 'checkpoints' / '4' / 'frozen').exists()
    metadata = json.loads((checkpoint.directory / 'state' / '_METADATA').read_text())
    saved = {k for k in metadata['tree_metadata'] if 'params' in k}
    assert saved and not any("'embed" in k or "'blocks.0" in k for k in saved)

    start = models.initialise(blueprint, jax.random.key(run[0].seed))
    for name, value in start.items():
        index = tuple(slice(0, n) for n in value.shape)
        after = whole.read(name, index)
        stays = [after[0], value[0]] if name.startswith('blocks.') else [after, value]
        if not name.startswith('final_norm'):
            np.testing.assert_array_equal(*stays, err_msg=name)
        if name.startswith(('blocks.', 'final_norm')):
            assert (after[-1] != np.asarray(value)[-1]).any(), name


def test_stopped_and_continued_it_ends_bit_for_bit_the_same(run, trained, tmp_path):
    settings, _ = run
    half = dataclasses.replace(settings, train=dataclasses.replace(settings.train, max_steps=2))
    Trainer(half, tmp_path / 'run').train()
    Trainer(settings, tmp_path / 'run').train()
    assert training_runs.losses(tmp_path / 'run') == training_runs.losses(trained)
    ours, theirs = training_runs.parameters(tmp_path / 'run'), training_runs.parameters(trained)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].tobytes() == value.tobytes(), name
    other = dataclasses.replace(settings.train, only='layers.0')
    with pytest.raises(ValueError, match=r'holds a run with another --config\.train\.only'):
        Trainer(dataclasses.replace(settings, train=other), tmp_path / 'run')


def test_its_export_is_the_whole_model(trained, tmp_path):
    to_huggingface(trained, tmp_path / 'hf')
    back = load_parameters(tmp_path / 'hf', huggingface.read_architecture(tmp_path / 'hf'))
    whole = load_parameters(trained)
    assert back.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_evaluation_tells_of_the_whole_model(trained):
    lines = (trained / 'metrics' / 'metrics.jsonl').read_text().splitlines()
    found = [r for r in map(json.loads, lines) if 'evaluation_loss' in r]
    assert [r['step'] for r in found] == [2, 4]
    assert found[1]['evaluation_loss'] != found[0]['evaluation_loss'] > 1


def test_a_frozen_part_that_is_damaged_is_named(run, trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'run')
    chunk = max((tmp_path / 'run' / 'frozen' / '0').rglob('*'), key=lambda p: p.stat().st_size)
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match=f'{chunk.name} is damaged: its checksum is'):
        open_checkpoint(tmp_path / 'run')
    longer = dataclasses.replace(run[0].train, steps=6)
    with pytest.raises(ValueError, match='does not hold the frozen parameters of the run any more'):
        Trainer(dataclasses.replace(run[0], train=longer), tmp_path / 'run')
