"""A really trained model, through a Hugging Face directory: its published words and its loss."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import belle_jax
import llama2c
from belle_jax.data import tokenizer
from belle_jax.decoding import score

pytest.importorskip('torch')
pytestmark = pytest.mark.parity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def stories(shared, tmp_path_factory):
    target = tmp_path_factory.mktemp('stories260k') / 'hf'
    source = shared / 'data' / 'tinystories-260k'
    llama2c.to_huggingface(source / 'stories260K.bin', source / 'tok512.model', target)
    return source, target


def test_sample_says_byte_for_byte_what_llama2c_says(stories, tmp_path):
    source, model = stories
    prompts, output = tmp_path / 'prompts.jsonl', tmp_path / 'answers.jsonl'
    prompts.write_text('{"prompt": ""}\n', 'utf-8')
    run = subprocess.run(
        [
            *(sys.executable, '-m', 'belle_jax.sample', f'--model={model}', '--template=none'),
            *(f'--prompts={prompts}', f'--output={output}', '--max_new_tokens=200'),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(output.read_text('utf-8'))
    assert answer['output'] == (source / 'expected_greedy_200.txt').read_text('utf-8')
    counts = answer['prompt_tokens'], answer['completion_tokens'], answer['finish_reason']
    assert counts == (1, 200, 'length')


def test_its_loss_on_real_stories_is_the_published_one(stories):
    source, path = stories
    words = tokenizer.load(path)
    text = (source / 'tinystories_sample.txt').read_text('utf-8')
    texts = [t.strip() for t in text.split('<|endoftext|>') if t.strip()]
    assert len(texts) == 5
    sequences = [words.encode(t, bos=True) for t in texts]
    losses = -np.concatenate(score(belle_jax.load_model(path), sequences))
    assert losses.mean() == pytest.approx(1.266, abs=0.002)
