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
from belle_jax.json_files import read_json
from belle_jax.runs.run_directory import SAMPLES, read_metrics
from belle_jax.training import samples
from belle_jax.training.loop import Trainer
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


def trainer(folder, workdir, mesh=(1, 8, 1), **train) -> Trainer:
    """Six steps with answers after every second one; the other fields are those of `train`."""
    c: Any = recipe.get_config()
    c.data.update(
        path=f'{folder}/a.jsonl',
        tokenizer=str(folder / 'tokenizer'),
        cache_dir=str(folder / 'cache'),
        system='答',
    )
    c.mesh.update(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    c.train.update(steps=6, eval_every=2, checkpoint_every=2, keep_last=9)
    c.train.update(sample_prompts=str(folder / 'prompts.jsonl'), sample_tokens=TOKENS)
    c.train.update(train)
    return Trainer(config.resolve(c), workdir)


def answers(workdir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / SAMPLES).read_text('utf-8').splitlines()]


@pytest.fixture(scope='module')
def asked(folder):
    """A run with answers that nothing happened to, on a log that does not fit their steps."""
    run = trainer(folder, folder / 'asked', log_every=5)
    run.train()
    assert run.setup.compilations == 1
    return folder / 'asked'


def as_sampled(workdir, step) -> list[str]:
    """What `sample` makes of the prompts with the checkpoint of a step."""
    path = workdir / 'checkpoints' / str(step)
    voice = assistant.voice(path)
    engine = assistant.engine(path, voice)
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
        assert ours == as_sampled(asked, step) and any(ours)


def test_training_is_the_same_to_the_bit_without_answers(folder, asked):
    plain = folder / 'plain'
    trainer(folder, plain, log_every=5, sample_prompts='').train()
    assert not (plain / 'samples').exists()
    measured = ('time', 'tokens_per_second', 'tokens_per_second_per_device', 'memory_bytes')
    ours, theirs = (
        [{k: v for k, v in r.items() if k not in measured} for r in read_metrics(path)[0]]
        for path in (w / 'metrics' / 'metrics.jsonl' for w in (asked, plain))
    )
    assert ours == theirs and len(ours) > 1
    for before, after in zip(states(asked), states(plain), strict=True):
        assert before.tobytes() == after.tobytes()


def states(workdir):
    """All arrays of the newest checkpoint, those of the optimiser as well."""
    run = config.load(workdir / 'config.json')
    again = Trainer(run, workdir)
    again.saving.checkpoints.close()
    assert again.number == 6
    return [np.asarray(x) for x in jax.tree.leaves(again.state)]
