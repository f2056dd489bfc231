"""Answers while training: training does not notice them, and a page sets them side by side."""

import json
import re
from typing import Any

import jax
import numpy as np
import pytest

import training_runs
from belle_jax import config
from belle_jax.decoding import Sampling, assistant, loop
from belle_jax.runs.run_directory import SAMPLES, read_metrics
from belle_jax.training import samples
from belle_jax.training.loop import Trainer
from belle_jax.training.saving import Saving
from recipes import tiny as recipe

PROMPTS = [
    {'prompt': '倒写天地玄黄'},
    {'id': '<b>', 'prompt': '<script>alert(1)</script>'},
    {'id': 'turns', 'messages': [{'role': 'user', 'content': '倒写宇宙洪荒日月盈昃辰宿列张'}]},
]
TOKENS = 5


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Rows, a tokenizer and prompts."""
    folder = tmp_path_factory.mktemp('samples')
    training_runs.make_data(folder)
    lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in PROMPTS]
    (folder / 'prompts.jsonl').write_text(''.join(lines), 'utf-8')
    return folder


def trainer(folder, workdir, dtype='float32', **train) -> Trainer:
    """Six steps on eight devices, with answers after every second one; `train` are more fields."""
    c: Any = recipe.get_config()
    c.data.update(
        path=f'{folder}/a.jsonl',
        tokenizer=str(folder / 'tokenizer'),
        cache_dir=str(folder / 'cache'),
        system='答',
    )
    c.model.architecture.update(tied=False, init_std=0.5)  # so that answers are told apart
    c.model.dtype = dtype
    c.optim.update(learning_rate=0.03, warmup_steps=0)
    c.mesh.update(data=2, fsdp=2, tensor=2)
    c.train.update(steps=6, eval_every=2, checkpoint_every=2, keep_last=9)
    c.train.update(sample_prompts=str(folder / 'prompts.jsonl'), sample_tokens=TOKENS)
    c.train.update(train)
    return Trainer(config.resolve(c), workdir)


def answers(workdir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / SAMPLES).read_text('utf-8').splitlines()]


@pytest.fixture(scope='module')
def asked(folder):
    """A run with answers that nothing happened to."""
    run = trainer(folder, folder / 'asked')
    run.train()
    assert run.setup.compilations == 1
    return folder / 'asked'


def as_sampled(workdir, step, dtype='float32') -> list[str]:
    """What `sample` makes of the prompts with the checkpoint of a step."""
    path = workdir / 'checkpoints' / str(step)
    voice = assistant.voice(path)
    engine = assistant.engine(path, voice, dtype=dtype)
    messages = [r.get('messages') or [{'role': 'user', 'content': r['prompt']}] for r in PROMPTS]
    made = engine.generate([voice.prompt(m) for m in messages], Sampling(TOKENS))
    return [voice.answer(completion.text) for completion in made]


def test_each_evaluation_has_the_answers_that_sample_gives_from_its_checkpoint(asked):
    found = answers(asked)
    assert [(row['step'], row['id']) for row in found] == [
        (step, name) for step in (2, 4, 6) for name in (1, '<b>', 'turns')
    ]
    for place, row in enumerate(found):
        assert row['input'] == list(PROMPTS[place % 3].values())[-1]
        assert row['finish_reason'] in ('stop', 'length')
    for step in (2, 4, 6):
        ours = [row['output'] for row in found if row['step'] == step]
        assert ours == as_sampled(asked, step)  # on one device
    assert len({row['output'] for row in found}) > 5


def test_training_is_the_same_to_the_bit_without_answers(folder, tmp_path):
    asked, plain = tmp_path / 'asked', tmp_path / 'plain'
    seldom: dict[str, Any] = {'log_every': 5, 'checkpoint_every': -1}  # at no step of answers
    trainer(folder, asked, **seldom).train()
    trainer(folder, plain, **seldom, sample_prompts='').train()
    assert not (plain / 'samples').exists()
    measured = ('time', 'tokens_per_second', 'tokens_per_second_per_device', 'memory_bytes')
    ours, theirs = (
        [{k: v for k, v in r.items() if k not in measured} for r in read_metrics(path)[0]]
        for path in (w / 'metrics' / 'metrics.jsonl' for w in (asked, plain))
    )
    assert ours == theirs and [r['step'] for r in ours] == [5, 6]
    for before, after in zip(states(asked), states(plain), strict=True):
        assert before.tobytes() == after.tobytes()


def states(workdir):
    """All arrays of the newest checkpoint, those of the optimiser as well."""
    run = config.load(workdir / 'config.json')
    again = Trainer(run, workdir)
    again.saving.checkpoints.close()
    assert again.number == 6
    return [np.asarray(x) for x in jax.tree.leaves(again.state)]


def test_of_a_model_that_is_trained_in_part_the_whole_answers_at_least_at_the_end(folder, tmp_path):
    run = trainer(folder, tmp_path / 'run', 'bfloat16', steps=2, only='layers.-1', eval_every=-1)
    run.train()
    ours = [row['output'] for row in answers(tmp_path / 'run')]
    assert ours == as_sampled(tmp_path / 'run', 2, 'bfloat16') and len(set(ours)) > 1


def test_the_second_evaluation_compiles_nothing(folder, tmp_path, monkeypatch):
    sizes: list[tuple[int, int]] = []
    ask = samples.Samples.answer
    prefill, advance = (getattr(loop, name) for name in ('prefill', 'advance'))

    def counted(*given):
        ask(*given)
        sizes.append((prefill._cache_size(), advance._cache_size()))

    monkeypatch.setattr(samples.Samples, 'answer', counted)
    trainer(folder, tmp_path / 'run', steps=4, checkpoint_every=-1).train()
    assert len(sizes) == 2 and sizes[0] == sizes[1]


def test_killed_between_answers_and_checkpoint_a_run_repeats_and_loses_none(
    folder, asked, tmp_path, capsys, monkeypatch
):
    workdir = tmp_path / 'run'
    run = trainer(folder, workdir)
    save = Saving.save

    def killed(saving, number, *given):
        if number == 4:
            raise KeyboardInterrupt
        save(saving, number, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Saving, 'save', killed)
        run.train()
    run._unlock()
    assert {row['step'] for row in answers(workdir)} == {2, 4}
    with (workdir / SAMPLES).open('ab') as file:
        file.write(b'{"step": 2}\n{"step": 4, "id": 1, "inp')
    trainer(folder, workdir).train()
    assert (workdir / SAMPLES).read_bytes() == (asked / SAMPLES).read_bytes()
    assert (workdir / 'samples' / 'samples.damaged.jsonl').read_bytes() == b'{"step": 2}\n'
    assert '1 damaged lines were put into' in ' '.join(capsys.readouterr())
    assert not list(workdir.rglob('.*'))


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (None, r'--config\.train\.sample_prompts=.*prompts\.jsonl cannot be read \(No such file'),
        ('\n', r'prompts\.jsonl has no rows'),
        ('{"prompt": "a"}\n{"question": "b"}\n', r'prompts\.jsonl:2: a row has one of'),
        (
            f'{{"prompt": "{"天" * 99}"}}',
            r'prompts\.jsonl:1: the prompt has \d+ tokens and',
        ),
        ('{"id": "\\ud800", "prompt": "a"}', r'prompts\.jsonl:1: .*surrogates'),
        ('{"prompt": "\\ud800"}', r'prompts\.jsonl:1: .*surrogates'),
    ],
    ids=['missing', 'empty', 'no prompt', 'too long', 'half a character', 'in a prompt'],
)
def test_prompts_that_cannot_be_asked_are_refused_before_training(
    folder, tmp_path, content, sentence
):
    path = tmp_path / 'prompts.jsonl'
    if content is not None:
        path.write_text(content, 'utf-8')
    with pytest.raises(ValueError, match=sentence):
        trainer(folder, tmp_path / 'run', sample_prompts=str(path))
    assert not (tmp_path / 'run').exists()


def test_the_page_shows_the_newest_answers_first_and_runs_nothing(asked):
    text = (asked / 'samples' / 'samples.html').read_text('utf-8')
    assert re.findall(r'<th>(.*?)</th>', text) == ['prompt', 'step 6', 'step 4', 'step 2']
    assert '<script' not in text and '&lt;script&gt;alert(1)' in text
    assert '<title>training, 5: ' in text  # the curve


def test_a_page_of_a_long_run_keeps_its_ends():
    found = [
        {'step': step, 'id': 1, 'input': 'a', 'output': f'at {step}', 'finish_reason': 'stop'}
        for step in range(0, 1001, 10)
    ]
    losses = [{'step': step, 'loss': 1.0} for step in range(5000)]
    text = samples.render('run', found, losses)
    columns = re.findall(r'<th>step ([\d,]+)</th>', text)
    assert columns[0] == '1,000' and columns[-1] == '0' and len(columns) == samples.COLUMNS
    assert re.findall(r'>at (\d+)<', text) == [c.replace(',', '') for c in columns]
    assert f'{101 - samples.COLUMNS} steps are left out here' in text
    assert text.count('<circle') == samples.POINTS
