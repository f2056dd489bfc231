"""A person's mistakes end a run before a device is touched, in a sentence that names the place."""

import json
from typing import Any

import pytest

import training_runs
from belle_jax import config
from belle_jax.training.loop import Trainer
from recipes import tiny as recipe

GOOD = {'instruction': '倒写天地', 'input': '', 'output': '地天'}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tokenizer')
    training_runs.make_tokenizer(folder, list('天地玄黄倒写'))
    return folder


def prepare(tmp_path, tokenizer, content=None, **fields):
    """A trainer of the tiny recipe on `content`; `fields` are like data__seq_len=8."""
    rows = tmp_path / 'rows.jsonl'
    if content is None:
        content = json.dumps(GOOD, ensure_ascii=False).encode() + b'\n'
    rows.write_bytes(content)
    c: Any = recipe.get_config()
    c.data.update(path=str(rows), tokenizer=str(tokenizer), cache_dir=str(tmp_path / 'cache'))
    for name, value in fields.items():
        section, _, field = name.partition('__')
        c[section][field] = value
    return Trainer(config.resolve(c), tmp_path / 'run')


@pytest.mark.parametrize(
    ('line', 'sentence'),
    [
        (b'{"instruction": "a", "output": ', r'rows\.jsonl:2'),
        (b'{"instruction": "a", "input": ""}', r'rows\.jsonl:2.*output'),
        (
            b'{"conversations": [{"from": "wizard", "value": "a"}, {"from": "gpt", "value": "b"}]}',
            r'rows\.jsonl:2',
        ),
        (b'{"instruction": "a", "input": "", "output": ""}', r'rows\.jsonl:2.*empty'),
        (b'{"instruction": "\xff\xfe", "input": "", "output": "b"}', r'rows\.jsonl:2.*UTF-8'),
    ],
    ids=['broken JSON', 'missing field', 'unknown role', 'empty answer', 'not UTF-8'],
)
def test_a_bad_row_names_its_file_and_line(tmp_path, tokenizer, line, sentence):
    good = json.dumps(GOOD, ensure_ascii=False).encode()
    with pytest.raises(ValueError, match=sentence) as raised:
        prepare(tmp_path, tokenizer, good + b'\n' + line + b'\n' + good + b'\n')
    assert '\n' not in str(raised.value)
    assert not (tmp_path / 'run' / 'config.json').exists()


@pytest.mark.parametrize('name', ['data.json', 'config.json', 'metrics/metrics.jsonl'])
def test_rows_that_the_run_would_write_over_are_refused(tmp_path, tokenizer, name):
    rows = tmp_path / 'run' / name
    rows.parent.mkdir(parents=True)
    rows.write_text(text := json.dumps(GOOD, ensure_ascii=False) + '\n', 'utf-8')
    sentence = r'\(of --workdir\) is what --config\.data\.{}path reads'
    with pytest.raises(ValueError, match=sentence.format('')):
        prepare(tmp_path, tokenizer, data__path=f'{tmp_path}/rows.jsonl,{rows}=2')
    with pytest.raises(ValueError, match=sentence.format(r'validation\.')):
        prepare(tmp_path, tokenizer, data__validation={'path': str(rows)})
    assert rows.read_text('utf-8') == text


def test_no_usable_row_is_an_error(tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r'rows\.jsonl'):
        prepare(tmp_path, tokenizer, b'\n\n')


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'data__path': ''}, r'data\.path is empty'),
        ({'data__path': '/no/such/file.jsonl'}, r'/no/such/file\.jsonl'),
        ({'data__tokenizer': '/no/such/folder'}, '/no/such/folder'),
        ({'data__template': 'fancy'}, 'fancy'),
        ({'mesh__tensor': 8, 'mesh__fsdp': 1}, r'mesh\.tensor=8 does not divide q_heads=4'),
        ({'mesh__fsdp': 3}, 'does not fit 8 devices'),
        ({'batch__size': 4}, r'mesh\.data × mesh\.fsdp = 8 does not divide'),
    ],
    ids=str,
)
def test_a_setting_that_does_not_fit_is_named(tmp_path, tokenizer, fields, sentence):
    with pytest.raises(ValueError, match=sentence) as raised:
        prepare(tmp_path, tokenizer, **fields)
    assert '\n' not in str(raised.value)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match='tokens, more than the 100 rows'):
        c: Any = recipe.get_config()
        architecture = c.model.architecture.to_dict() | {'vocab_size': 100}
        prepare(tmp_path, tokenizer, model__architecture=architecture)


@pytest.mark.parametrize(
    ('flag', 'sentence'),
    [
        ('--config.optim.learning_rat=1', 'learning_rat'),
        ('--config=tests/support/recipes/tiny.py:fancy', "variant 'fancy' is not one of"),
        ('--config=no/such/recipe.py', 'no/such/recipe.py'),
        ('--processes=2', '--process (or JAX_PROCESS_ID) must be given'),
    ],
)
def test_a_flag_that_does_not_exist_is_one_sentence(tmp_path, flag, sentence):
    process = training_runs.start(tmp_path / 'run', [flag])
    assert process.wait(timeout=120) == 1
    text = (tmp_path / 'run.log').read_text().strip()
    assert sentence in text.splitlines()[-1] and 'Traceback' not in text


def test_the_program_ends_with_one_sentence_and_exit_code_1(tmp_path, tokenizer):
    flags = ['--config.data.path=/no/such/file.jsonl', f'--config.data.tokenizer={tokenizer}']
    workdir = tmp_path / 'run'
    process = training_runs.start(workdir, flags)
    assert process.wait(timeout=120) == 1
    lines = workdir.with_suffix('.log').read_text().strip().splitlines()
    assert lines[-1].startswith('belle_jax.train: ') and '/no/such/file.jsonl' in lines[-1]
    assert not any('Traceback' in line for line in lines)
    assert not workdir.exists()
