"""The pages' commands: each runs, in its order, on small files in place of published ones."""

import json
import os
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

import as_gptq
import as_meta
import programs
from api_runs import ServerProcess
from belle_jax.data import sentencepiece_model
from belle_jax.data.sentencepiece_model import NORMAL, ScoredPiece
from belle_jax.formats import huggingface, meta, paddle
from belle_jax.judging import questions
from tiny import write_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = ('README.md', *sorted(f'docs/{page.name}' for page in ROOT.glob('docs/*.md')))

TRAINING = (
    '--config.train.steps=2 --config.batch.size=2 --config.data.seq_len=64 '
    '--config.data.validation.count=2 --config.data.cache_dir=cache'
)
# What makes a command short, by what it begins with.
SHORTER = {
    'belle-jax train': TRAINING,
    'belle-jax sample': '--max_new_tokens=4',
    'belle-jax generate_data --': '--count=20',
    'belle-jax generate_data': '',
    'belle-jax convert': '',
    'belle-jax evaluate run': '--max_new_tokens=2',
    'belle-jax evaluate': '',
}
# Commands that another test covers, or that no test machine can run.
ELSEWHERE = {
    'belle-jax generate_data review': 'test_review serves its page and ends it',
    'belle-jax evaluate page': 'test_scoring_page serves it',
    'belle-jax train --config=sft_llama:7b --workdir=runs/sft --config.mesh.dcn': 'needs machines',
    'belle-jax plan': 'test_plan compiles the recipes',
    'belle-jax evaluate harness': "test_harness runs the page's task",
    'belle-jax train --config=sft_llama:7b --workdir=s3:': 'test_storage trains in a bucket',
    'python -m benchmarks.train_step --shape=7b': 'needs a large accelerator',
    'python -m benchmarks.decode --size=7b': 'needs a large accelerator',
    'python -m benchmarks.packed_product': 'test_packed_product compiles its kernels',
}


def commands(*pages: str) -> list[str]:
    """The indented lines of pages that start a program, in order, each whole and once."""
    text = ''.join((ROOT / page).read_text('utf-8') for page in pages).replace('\\\n', ' ')
    lines = re.findall(r'^ {4,}((?:python -m|belle-jax) .*)$', text, re.MULTILINE)
    return list(dict.fromkeys(' '.join(line.partition('  #')[0].split()) for line in lines))


def program(command: str) -> list[str]:
    """The program that belle-jax starts, as `python -m` starts it where nothing is installed."""
    words = shlex.split(command)
    assert words.pop(0) == 'belle-jax', command
    package = words.pop(0) if words[0] == 'convert' else 'belle_jax'
    return [sys.executable, '-m', f'{package}.{words[0]}', *words[1:]]


def beginning(command: str, table: dict[str, str]) -> str | None:
    return next((value for start, value in table.items() if command.startswith(start)), None)


@pytest.fixture
def server(tmp_path):
    """The address of a language-model server."""
    with ServerProcess(tmp_path / 'server.jsonl', '--content=judge_replies:either') as process:
        yield process.url


def test_both_readmes_have_the_same_commands():
    assert set(commands('README.zh-CN.md')) == set(commands('README.md'))


def python(page: str) -> str:
    """What a page has of Python."""
    text = re.search(
        r'^ {4}import belle_jax\n(?: {4}.*\n)+', (ROOT / page).read_text('utf-8'), re.M
    )
    assert text
    return textwrap.dedent(text[0])


def test_the_readmes_python_answers(tmp_path, monkeypatch, capsys):
    assert python('README.zh-CN.md') == python('README.md')
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(python('README.md').replace('max_new_tokens=64', 'max_new_tokens=2'), {})
    assert capsys.readouterr().out.count('\n') >= 2


@pytest.mark.slow
def test_each_command_of_the_pages_runs(tmp_path, server):
    files(tmp_path)
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
    environment |= {'OPENAI_BASE_URL': server, 'OPENAI_API_KEY': 'none'}
    ran = 0
    for command in commands(*PAGES):
        if beginning(command, ELSEWHERE):
            continue
        extra = beginning(command, SHORTER)
        assert extra is not None, f'no entry says how to run: {command}'
        if '--source=BELLE-LLaMA-7B-2M-enc' in command:  # what the commands before it made
            shutil.move(tmp_path / 'sft-enc', tmp_path / 'BELLE-LLaMA-7B-2M-enc')
        done = programs.run(
            program(f'{command} {extra}'),
            cwd=tmp_path,
            env=environment,
            input='天地玄黄\n',
            timeout=300,
        )
        assert done.returncode == 0, f'{command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}'
        ran += 1
    assert ran >= 23
    answers = (tmp_path / 'answers.jsonl').read_text('utf-8').splitlines()
    assert [json.loads(row)['input'] for row in answers] == ['一加一', '天地']
    tuned, again, decrypted = (
        (tmp_path / 'models' / name / 'model.safetensors').read_bytes()
        for name in ('sft', 'sft-again', 'belle-llama-7b')
    )
    assert tuned == again == decrypted


def texts(name: str) -> list[dict[str, str]]:
    """Rows that are in no other file."""
    return [{'text': f'{name}第{n}回，盖闻天地之数。' * 3} for n in range(40)]


def files(folder: Path) -> None:
    """Small models, and the rows that the README's commands name."""
    (folder / 'bigscience').mkdir()
    write_model(folder / 'bigscience' / 'bloomz-560m')
    for name in ('HF_DIR_OR_NAME', 'runs/quickstart/run', 'BelleGroup/BELLE-7B-2M'):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(folder / 'bigscience' / 'bloomz-560m')
    as_meta.llama2(folder / 'LLaMA' / '7B', count=1)
    huggingface.write(meta.open(folder / 'LLaMA' / '7B'), folder / 'of-paddle')
    paddle.write(huggingface.open(folder / 'of-paddle'), folder / 'belle-7b-2m')
    (folder / 'llama-7b').symlink_to(folder / 'of-paddle')
    more = [ScoredPiece(text, -1.0, NORMAL) for text in ('天', '地', '天地', '之数')]
    words = folder / 'of-paddle' / 'tokenizer.model'
    pieces = [*sentencepiece_model.read_model(words).pieces, *more]
    sentencepiece_model.write_model(words, folder / 'chinese_sp.model', pieces)
    as_gptq.belle(folder / 'BELLE-7B-gptq', as_gptq.BLOOM, as_gptq.Plan(**as_gptq.BELLE))
    (folder / 'BELLE-7B-gptq/weights.pt').rename(folder / 'BELLE-7B-gptq/bloom7b-2m-4bit-128g.pt')
    rows = [{'instruction': f'{n}加一', 'input': '', 'output': f'{n + 1}'} for n in range(40)]
    (folder / 'novel.txt').write_text('盖闻天地之数，有十二万九千六百岁为一元。' * 9, 'utf-8')
    (folder / 'my_questions.jsonl').symlink_to(questions.OWN_QUESTIONS)
    for name, content in (
        ('mine.jsonl', rows),
        *((f'{name}.jsonl', texts(name)) for name in ('zh', 'en', 'zh_held', 'en_held')),
        ('questions.jsonl', [{'prompt': '一加一'}, {'prompt': '天地'}]),
        ('eval_set.json', [{'question': '二加二？', 'std_answer': '四', 'class': 'Math'}]),
        ('eval_prompt.json', [{'class': 'math', 'prompt': '请按"得分:"打分。'}]),
    ):
        text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in content)
        (folder / name).write_text(text, 'utf-8')


@pytest.mark.parametrize('page', ['README.md', 'README.zh-CN.md'])
def test_the_readmes_recipes_exist(page):
    text = (ROOT / page).read_text('utf-8')
    named = set(re.findall(r'^\| `(\w+)[:`]', text, re.MULTILINE))
    assert named == {p.stem for p in (ROOT / 'configs').glob('[a-z]*.py')}
