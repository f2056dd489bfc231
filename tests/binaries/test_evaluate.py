"""`python -m belle_jax.evaluate`: figures of a text, and mistakes."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from belle_jax.data import tokenizer
from belle_jax.decoding.perplexity import perplexity
from belle_jax.runs.load import load_model

ROOT = Path(__file__).resolve().parents[2]
SAYING = '天地玄黄，宇宙洪荒。' * 40


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('evaluate')
    tiny.write_model(made / 'model')
    (made / 'text.txt').write_text(SAYING, 'utf-8')
    return made


def evaluate(folder, *flags):
    return subprocess.run(
        [sys.executable, '-m', 'belle_jax.evaluate', *flags],
        cwd=folder,
        env={'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'HF_HUB_OFFLINE': '1'},
        capture_output=True,
        text=True,
    )


def test_a_file_is_measured_and_the_figures_are_written(folder):
    words = 'perplexity --model=model --text=text.txt --output=made/figures.json'
    done = evaluate(folder, *words.split())
    assert done.returncode == 0, done.stderr
    assert "--seq_len=256: the model's context." in done.stderr
    figures = json.loads((folder / 'made' / 'figures.json').read_text('utf-8'))
    tokens = tokenizer.load(folder / 'model').encode(SAYING)
    expected = perplexity(load_model(folder / 'model'), tokens, 256)
    assert figures['perplexity'] == pytest.approx(expected.value, rel=1e-5)
    assert (figures['seq_len'], figures['stride'], figures['windows']) == (256, 256, 4)
    assert figures['tokens'] == 4 * 255 and figures['step'] is None
    # Its tokens are bytes.
    assert figures['bits_per_byte'] == pytest.approx(figures['loss'] / math.log(2))
    assert f'perplexity {figures["perplexity"]:,.4f}' in done.stdout
    assert done.stdout.endswith('The figures are in made/figures.json\n')


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        ('', 'say what to do: python -m belle_jax.evaluate run|answer|judge|report|'),
        ('perplexity --model=model', '--text is missing. wikitext2, ptb, c4, or files.'),
        ('perplexity --model=model --text=nothing', 'nothing is neither a file here nor the name'),
        ('perplexity --model=nothing --text=text.txt', 'nothing'),
        (
            'perplexity --model=model --text=text.txt --seq_len=2048',
            '--seq_len=2048 is more than the 256 tokens that the model reads: set --seq_len=256.',
        ),
        (
            'perplexity --model=model --text=text.txt --output=text.txt',
            'text.txt (of --output) is what --text reads',
        ),
        ('perplexity --model=model --text=wikitext2', 'give a file with the text instead'),
    ],
)
def test_a_mistake_is_one_sentence(folder, words, sentence):
    done = evaluate(folder, *words.split())
    assert done.returncode == 1 and sentence in done.stderr, done.stderr
    assert done.stderr.startswith('belle_jax.evaluate: ') and done.stderr.count('\n') == 1
