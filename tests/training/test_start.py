"""What a run directory fixes, and when: nothing before there is a model in it to protect."""

import dataclasses
import json
import shutil
from typing import Any

import pytest

import as_gptq
import tiny
import training_runs
from belle_jax import config
from belle_jax.runs import conversion, run_directory
from belle_jax.runs.run_directory import open_checkpoint
from belle_jax.training import optim
from belle_jax.training.loop import Trainer
from recipes import tiny as recipe


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Rows, two tokenizers and two published models."""
    folder = tmp_path_factory.mktemp('start')
    training_runs.make_data(folder)
    training_runs.make_tokenizer(folder / 'other', list('春眠不觉晓'))
    tiny.write_model(folder / 'hf')
    return folder


def settings(folder, **fields) -> config.Run:
    """Two steps on the rows; `fields` are like data__seq_len=16."""
    c: Any = recipe.get_config()
    c.data.update(
        path=f'{folder}/a.jsonl',
        tokenizer=str(folder / 'tokenizer'),
        cache_dir=str(folder / 'cache'),
    )
    c.train.update(steps=2, checkpoint_every=-1)
    for name, value in fields.items():
        section, _, field = name.partition('__')
        c[section][field] = value
    return config.resolve(c)


def from_source(folder, source, **fields) -> config.Run:
    """The same from a published model, with its own tokenizer."""
    run = settings(folder, data__tokenizer='', **fields)
    return dataclasses.replace(run, model=config.Model(source=str(source)))


def test_a_quantised_source_is_not_trained(folder, tmp_path):
    plan = as_gptq.Plan()
    quantised, _ = as_gptq.publish(tmp_path / 'model', as_gptq.LLAMA, plan)
    run = from_source(folder, quantised)
    with pytest.raises(
        ValueError, match=r'--config.model.source=.* is quantised: its codes cannot'
    ):
        Trainer(run, tmp_path / 'run').train()
    with pytest.raises(ValueError, match='is run as it is, and neither trained nor converted'):
        conversion.from_published(str(quantised), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def stopped_first(run, workdir, monkeypatch):
    """A start that fails before its first checkpoint, as one that is out of memory does."""

    def fails(_):
        raise RuntimeError('RESOURCE_EXHAUSTED')

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, '_run', fails)
        with pytest.raises(RuntimeError, match='RESOURCE_EXHAUSTED'):
            Trainer(run, workdir).train()
    assert (workdir / 'config.json').exists()


def same_run(workdir, other):
    ours, theirs = training_runs.parameters(workdir), training_runs.parameters(other)
    assert ours.keys() == theirs.keys() and len(ours) > 5
    for name, value in theirs.items():
        assert ours[name].tobytes() == value.tobytes(), name
    for name in ('config.json', 'data.json'):
        assert (workdir / name).read_bytes() == (other / name).read_bytes(), name
    files = [sorted(p.name for p in (w / 'tokenizer').iterdir()) for w in (workdir, other)]
    assert files[0] == files[1]


def test_a_start_that_failed_fixes_nothing_and_leaves_nothing(folder, tmp_path, monkeypatch):
    workdir, fresh = tmp_path / 'run', tmp_path / 'fresh'
    stopped_first(from_source(folder, folder / 'hf', batch__size=16), workdir, monkeypatch)
    assert (workdir / 'source' / 'origin.json').exists()
    for note in (workdir / 'notes.txt', workdir / 'tokenizer' / 'mine.txt'):
        note.write_text('mine')
    changed = settings(folder, data__tokenizer=str(folder / 'other'), optim__learning_rate=1e-4)
    for directory in (workdir, fresh):
        Trainer(changed, directory).train()
    (workdir / 'tokenizer' / 'mine.txt').unlink()  # it was still there
    assert (workdir / 'notes.txt').read_text() == 'mine'
    assert not (workdir / 'source').exists() and run_directory.read_origin(workdir) == {}
    same_run(workdir, fresh)
    with pytest.raises(ValueError, match=r'holds a run with another --config\.optim\.learning_rat'):
        Trainer(settings(folder, data__tokenizer=str(folder / 'other')), workdir)


def test_wandb_may_be_switched_off_where_it_could_not_be_switched_on(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'wandb', None)
    with pytest.raises(ValueError, match='pip install wandb'):
        Trainer(settings(folder, train__wandb='mine', batch__size=16), tmp_path / 'run').train()
    Trainer(settings(folder), tmp_path / 'run').train()
    assert open_checkpoint(tmp_path / 'run').step == 2


def test_what_is_advised_of_a_loss_that_is_not_finite_works(folder, tmp_path):
    wild: dict[str, Any] = {'optim__schedule': 'constant', 'optim__warmup_steps': 0}
    wild |= {'optim__learning_rate': 1e30, 'optim__clip_norm': 0.0, 'train__steps': 4}
    with pytest.raises(ValueError, match=r'Set --config\.optim\.learning_rate lower\.$'):
        Trainer(settings(folder, **wild), tmp_path / 'run').train()
    Trainer(settings(folder), tmp_path / 'run').train()
    wild['train__checkpoint_every'] = 1
    with pytest.raises(ValueError, match=r'learning_rate lower, with a new --workdir\.$'):
        Trainer(settings(folder, **wild), tmp_path / 'other').train()


def test_a_stop_before_the_first_step_saves_nothing(folder, tmp_path):
    trainer = Trainer(settings(folder), tmp_path / 'run')
    trainer._stop = True
    trainer.train()
    assert trainer.interrupted
    assert not list((tmp_path / 'run' / 'checkpoints').glob('*'))


def test_what_a_person_put_there_is_not_written_over(folder, tmp_path):
    tiny.write_model(tmp_path / 'hf')
    before = (tmp_path / 'hf' / 'config.json').read_bytes()
    with pytest.raises(ValueError, match=r'config\.json is not the configuration of a run'):
        Trainer(settings(folder), tmp_path / 'hf')
    assert (tmp_path / 'hf' / 'config.json').read_bytes() == before
    shutil.copytree(folder / 'other', tmp_path / 'run' / 'tokenizer')
    with pytest.raises(ValueError, match='tokenizer is another tokenizer than --config.data.tok'):
        Trainer(settings(folder), tmp_path / 'run')
    own = settings(folder, data__tokenizer=str(tmp_path / 'run' / 'tokenizer'))
    trainer = Trainer(own, tmp_path / 'run')
    assert trainer.workdir.joinpath('tokenizer', 'tokenizer.json').read_bytes() == (
        (folder / 'other' / 'tokenizer.json').read_bytes()
    )


def test_the_same_rows_tokens_and_weights_may_have_moved(folder, tmp_path):
    shutil.copytree(folder, tmp_path / 'a')
    half = from_source(tmp_path / 'a', tmp_path / 'a' / 'hf', train__max_steps=1)
    Trainer(half, tmp_path / 'run').train()
    whole = from_source(tmp_path / 'a', tmp_path / 'a' / 'hf')
    Trainer(whole, tmp_path / 'straight').train()
    (tmp_path / 'a').rename(tmp_path / 'b')
    moved = from_source(tmp_path / 'b', tmp_path / 'b' / 'hf')
    moved = dataclasses.replace(
        moved, data=dataclasses.replace(moved.data, tokenizer=str(tmp_path / 'b' / 'hf'))
    )
    Trainer(moved, tmp_path / 'run').train()
    ours, theirs = (training_runs.parameters(tmp_path / n) for n in ('run', 'straight'))
    for name, value in theirs.items():
        assert ours[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize('what', ['data.tokenizer', 'model.source', 'rows'])
def test_other_rows_tokens_or_weights_are_refused_wherever_they_lie(folder, tmp_path, what):
    shutil.copytree(folder, tmp_path / 'a')
    run = from_source(folder, folder / 'hf')
    Trainer(run, tmp_path / 'run').train()
    data, model = run.data, run.model
    if what == 'model.source':
        tiny.write_model(tmp_path / 'other', seed=7)
        model = config.Model(source=str(tmp_path / 'other'))
    elif what == 'data.tokenizer':
        data = dataclasses.replace(data, tokenizer=str(folder / 'other'))
    else:
        data = dataclasses.replace(data, path=str(folder / 'b.jsonl'))
    expected = 'other data or batches' if what == 'rows' else rf'another --config\.{what}:'
    with pytest.raises(ValueError, match=expected):
        Trainer(dataclasses.replace(run, data=data, model=model), tmp_path / 'run')


def test_a_converted_directory_fixes_its_model_alone(folder, tmp_path):
    run, fresh = tmp_path / 'run', tmp_path / 'fresh'
    shutil.copytree(folder / 'hf', tmp_path / 'hf')
    conversion.from_published(str(tmp_path / 'hf'), run)
    shutil.rmtree(tmp_path / 'hf')  # the directory alone is enough
    Trainer(from_source(folder, tmp_path / 'hf'), run).train()
    Trainer(from_source(folder, folder / 'hf'), fresh).train()
    assert training_runs.losses(run) == training_runs.losses(fresh)
    conversion.from_published(str(folder / 'hf'), tmp_path / 'second')
    tiny.write_model(tmp_path / 'other', seed=7)
    for other in (settings(folder), from_source(folder, tmp_path / 'other')):
        with pytest.raises(ValueError, match=r'another --config\.(model\.source|data\.tokenizer)'):
            Trainer(other, tmp_path / 'second')


def test_memory_may_be_saved_in_a_run_that_goes_on(folder, tmp_path):
    Trainer(settings(folder, train__max_steps=1), tmp_path / 'run').train()
    Trainer(settings(folder, batch__accumulation=1, model__remat='dots'), tmp_path / 'run').train()
    assert open_checkpoint(tmp_path / 'run').step == 2


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'train__steps': 1}, r'at step 2, beyond the end that --config\.train\.steps=1 sets'),
        ({'train__max_steps': 1}, r'at step 2, beyond the end that --config\.train\.max_steps=1'),
        ({'train__steps': 0, 'train__epochs': 0.1}, r'--config\.train\.epochs=0\.1 sets'),
    ],
    ids=str,
)
def test_an_end_before_the_checkpoint_is_refused(folder, tmp_path, fields, sentence):
    workdir = tmp_path / 'run'
    Trainer(settings(folder), workdir).train()
    Trainer(settings(folder), workdir).train()  # at its end: nothing happens
    before = json.loads((workdir / 'config.json').read_text())
    with pytest.raises(ValueError, match=sentence):
        Trainer(settings(folder, **fields), workdir)
    assert json.loads((workdir / 'config.json').read_text()) == before


def test_a_warm_up_and_rows_that_are_too_long_are_told(folder, tmp_path, caplog):
    with caplog.at_level('WARNING', 'absl'):
        Trainer(settings(folder, optim__warmup_steps=2, data__seq_len=64), tmp_path / 'run')
        assert caplog.text == ''
        Trainer(settings(folder, optim__warmup_steps=8, data__seq_len=65), tmp_path / 'other')
    assert 'warmup_steps=8 is longer than the run of 2 steps' in caplog.text
    assert 'ends at 25 % of its peak' in caplog.text
    assert 'data.seq_len=65 is longer than the context of 64 tokens' in caplog.text
    assert optim.schedule(config.Optim(warmup_steps=8), 2)(2) == pytest.approx(0.25 * 1e-5)
