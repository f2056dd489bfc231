"""Texts by name and from files: what they are made of, and what is said where there is none."""

import gzip
import json

import numpy as np
import pytest

from belle_jax.data import corpora, marked_text, tokenizer

NAMES = pytest.mark.parametrize('name', corpora.CORPORA)
SENTENCES = ['', ' = A title = \n', '天地玄黄 <unk> .', 'The second row.', '']


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder for each hub data set, with files where the hub has them."""
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr('datasets.config.HF_DATASETS_CACHE', str(tmp_path / 'cache'))
    for name, corpus in corpora.CORPORA.items():
        folder = tmp_path / name
        for split in ('evaluation', 'calibration'):
            rows = [{corpus.field: f'{row}{split}' if row else row} for row in SENTENCES]
            rows = [row | {'url': 'x'} for row in rows]
            file = folder / getattr(corpus, split)[0].replace('*', '00000')
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == '.parquet':
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
            else:
                many = rows * 300 if split == 'evaluation' else rows
                text = ''.join(json.dumps(row) + '\n' for row in many)
                file.write_bytes(gzip.compress(text.encode()))
        monkeypatch.setitem(corpora.CORPORA, name, corpus._replace(hub=str(folder)))


@NAMES
@pytest.mark.parametrize('split', ['evaluation', 'calibration'])
def test_a_name_is_its_splits_rows_in_one_text(hub, name, split):
    rows = [f'{row}{split}' if row else row for row in SENTENCES]
    if name == 'c4':
        rows = (rows * 220) if split == 'evaluation' else rows  # 1,100 documents are taken
        assert corpora.text(name, split) == ' '.join(rows)
    else:
        assert corpora.text(name, split) == '\n\n'.join(rows)


@NAMES
def test_a_name_without_network_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setattr('datasets.config.HF_DATASETS_CACHE', str(tmp_path))
    with pytest.raises(ValueError, match='give a file with the text instead of the name') as error:
        corpora.text(name)
    assert str(error.value).startswith(f'{name} is {corpora.CORPORA[name].evaluation[0]} of')
    assert '\n' not in str(error.value)


def test_a_file_is_text_or_rows(tmp_path):
    plain = tmp_path / 'a.txt'
    plain.write_text('\ufeff{"text": "天"}\n\n', 'utf-8')
    assert corpora.text(str(plain)) == '{"text": "天"}\n\n'
    rows = tmp_path / 'a.jsonl'
    lines = [{'text': '天'}, {'text': ''}, {'text': '地\n'}]
    rows.write_text(''.join(json.dumps(line) + '\n' for line in lines), 'utf-8')
    assert corpora.text(str(rows)) == '天\n\n\n\n地\n'
    asked = [{'instruction': '问', 'input': '甲', 'output': '答'}]
    (tmp_path / 'a.json').write_text(json.dumps(asked), 'utf-8')
    assert corpora.text(str(tmp_path / 'a.json')) == '问\n甲\n答'


@pytest.mark.parametrize(
    ('name', 'content', 'sentence'),
    [
        (
            'wikitext',
            None,
            'wikitext is neither a file here nor the name of a text: wikitext2, ptb',
        ),
        ('a.txt', b' \n', 'a.txt has no text: give a file that has some.'),
        ('a.txt', b'', 'a.txt has no text'),
        ('a.txt', b'abc\xff', r'a.txt is not UTF-8 \(byte 3\)'),
        ('a.jsonl', b'', 'a.jsonl is empty'),
        ('a.jsonl', b'{"text": "a"}\n{"text": 1}\n', 'a.jsonl:2: .*Mend it, or leave it out.'),
        ('a.jsonl', b'{"words": "a"}\n', 'a.jsonl:1: a row with the fields words is of no known'),
        ('a.jsonl', b'{"text": "a"}\n{"te', 'a.jsonl:2: '),
    ],
)
def test_what_is_no_text_is_a_sentence(tmp_path, monkeypatch, name, content, sentence):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        corpora.text(name)


@pytest.mark.parity
@pytest.mark.parametrize('settings', [{}, {'legacy': False}])
def test_special_tokens_in_a_text_are_those_of_transformers(shared, tmp_path, settings):
    transformers = pytest.importorskip('transformers')
    source = shared / 'data' / 'tokenizers' / 'llama_tokenizer.json'
    (tmp_path / 'tokenizer.json').write_bytes(source.read_bytes())
    values = {'tokenizer_class': 'LlamaTokenizerFast', 'bos_token': '<s>', 'eos_token': '</s>'}
    values |= {'unk_token': '<unk>', **settings}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(values))
    text = 'no <unk> it was <unk> <unk> black monday\n\nin <unk>, N years <unk>'
    text += (shared / 'data/text/wikitext2_test.txt').read_text('utf-8')[:20_000]
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path)(text)['input_ids']
    made = tokenizer.load(tmp_path)
    found = marked_text.encode(made, text)
    assert found[0] == 1 and np.count_nonzero(found == 0) > 20
    assert found.tolist() == expected


def test_passages_are_a_large_text_in_whole_lines(tmp_path):
    plain, rows = tmp_path / 'a.txt', tmp_path / 'b.jsonl'
    text = ''.join(f'{n} 天地玄黄\r\n' * (n % 7) + '\n' for n in range(3000))
    plain.write_bytes(('\ufeff' + text).encode())
    found = list(corpora.passages(plain))
    assert ''.join(found) == text and len(found) > 10
    assert all(passage.endswith('\n') for passage in found)
    texts = [{'text': '天\n地'}, {'text': ' '}, {'instruction': '一', 'output': '二'}]
    rows.write_text('\n'.join(map(json.dumps, texts)))
    assert list(corpora.passages(rows)) == ['天\n地', '一\n二']
    plain.write_bytes(b'a\n' * 9000 + b'\xff')
    with pytest.raises(ValueError, match='a.txt is not UTF-8'):
        list(corpora.passages(plain))
    with pytest.raises(ValueError, match='is not a file here'):
        corpora.passages(tmp_path)
