"""The README's commands: each runs, in its order, on small files in place of published ones."""

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import as_meta
import programs
from api_runs import ServerProcess
from belle_jax.formats import meta, paddle
from tiny import write_model

ROOT = Path(__file__).resolve().parents[2]

TRAINING = (
    '--config.train.steps=2 --config.batch.size=2 --config.data.seq_len=64 '
    '--config.data.validation.count=2 --config.data.cache_dir=cache'
)
# What makes a command short, by what it begins with.
SHORTER = {
    'python -m belle_jax.train': TRAINING,
    'python -m belle_jax.sample': '--max_new_tokens=4',
    'python -m belle_jax.generate_data --': '--count=20',
    'python -m belle_jax.generate_data': '',
    'python -m convert.': '',
}
# Commands that another test covers, or that no test machine can run.
ELSEWHERE = {
    'python -m benchmarks.compile_step': 'test_compilers compiles the recipes',
    'python -m benchmarks.train_step --shape=7b': 'needs a large accelerator',
    'python -m benchmarks.decode --size=7b': 'needs a large accelerator',
}


def commands() -> list[str]:
    """The indented lines of the README that start Python, in order, each whole."""
    text = (ROOT / 'README.md').read_text('utf-8').replace('\\\n', ' ')
    lines = re.findall(r'^ {4,}(python -m (?!venv).*)$', text, re.MULTILINE)
    return [' '.join(line.partition('  #')[0].split()) for line in lines]


def beginning(command: str, table: dict[str, str]) -> str | None:
    return next((value for start, value in table.items() if command.startswith(start)), None)


@pytest.fixture
def server(tmp_path):
    """The address of a language-model server."""
    with ServerProcess(tmp_path / 'server.jsonl') as process:
        yield process.url


@pytest.mark.slow
def test_each_command_of_the_readme_runs(tmp_path, server):
    files(tmp_path)
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    environment |= {'OPENAI_BASE_URL': server, 'OPENAI_API_KEY': 'none'}
    ran = 0
    for command in commands():
        if beginning(command, ELSEWHERE):
            continue
        extra = beginning(command, SHORTER)
        assert extra is not None, f'no entry says how to run: {command}'
        if '--source=BELLE-LLaMA-7B-2M-enc' in command:  # what the commands before it made
            shutil.move(tmp_path / 'sft-enc', tmp_path / 'BELLE-LLaMA-7B-2M-enc')
        done = programs.run(
            [sys.executable, *shlex.split(f'{command} {extra}')[1:]],
            cwd=tmp_path,
            env=environment,
            input='天地玄黄\n',
            timeout=300,
        )
        assert done.returncode == 0, f'{command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}'
        ran += 1
    assert ran >= 21
    answers = (tmp_path / 'answers.jsonl').read_text('utf-8').splitlines()
    assert [json.loads(row)['input'] for row in answers] == ['一加一', '天地']
    tuned, again, decrypted = (
        (tmp_path / 'models' / name / 'model.safetensors').read_bytes()
        for name in ('sft', 'sft-again', 'belle-llama-7b')
    )
    assert tuned == again == decrypted


def files(folder: Path) -> None:
    """Small models, and the rows that the README's commands name."""
    (folder / 'configs').symlink_to(ROOT / 'configs')
    (folder / 'bigscience').mkdir()
    write_model(folder / 'bigscience' / 'bloomz-560m')
    (folder / 'HF_DIR_OR_NAME').symlink_to(folder / 'bigscience' / 'bloomz-560m')
    as_meta.llama2(folder / 'LLaMA' / '7B', count=1)
    meta.from_meta(folder / 'LLaMA' / '7B', folder / 'of-paddle')
    paddle.to_paddle(folder / 'of-paddle', folder / 'belle-7b-2m')
    rows = [{'instruction': f'{n}加一', 'input': '', 'output': f'{n + 1}'} for n in range(40)]
    for name, content in (
        ('mine.jsonl', rows),
        ('questions.jsonl', [{'prompt': '一加一'}, {'prompt': '天地'}]),
    ):
        text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in content)
        (folder / name).write_text(text, 'utf-8')


def test_the_readmes_recipes_exist():
    text = (ROOT / 'README.md').read_text('utf-8')
    named = set(re.findall(r'configs/\w+\.py', text))
    assert named == {f'configs/{p.name}' for p in (ROOT / 'configs').glob('[a-z]*.py')}


@pytest.mark.parametrize('name', ['CONTRIBUTING.md', 'LICENSE'])
def test_the_readmes_links_lead_somewhere(name):
    assert f']({name})' in (ROOT / 'README.md').read_text('utf-8')
    assert (ROOT / name).is_file()
