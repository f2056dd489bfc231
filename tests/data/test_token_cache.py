"""The token cache: found again only by what made it, whole or not at all."""

import json
import multiprocessing
import os
import time

import numpy as np
import pytest

from belle_jax.data import record_reader, templates, token_cache, tokenizer


@pytest.fixture(scope='module')
def chinese(shared):
    return tokenizer.load(shared / 'data' / 'tokenizers' / 'zh_bpe_6400')


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / 'rows.jsonl'
    made = [{'instruction': f'第{i}个问题', 'output': '答案' * (i % 7 + 1)} for i in range(50)]
    path.write_text('\n'.join(json.dumps(r, ensure_ascii=False) for r in made), 'utf-8')
    return path


def opened(path, made, tmp_path, name='belle', system='', on_bad_row='error'):
    template = templates.Template(name, made)
    return token_cache.open_source(str(path), template, system, on_bad_row, f'{tmp_path}/cache')


def entries(tmp_path):
    return sorted(p.name for p in (tmp_path / 'cache').iterdir() if p.is_dir())


def test_an_entry_holds_what_the_template_says(rows, chinese, tmp_path):
    made = opened(rows, chinese, tmp_path)
    template = templates.Template('belle', chinese)
    for i, record in enumerate(record_reader.RecordReader(str(rows))):
        tokens, trained = template.encode(record.messages)
        here = slice(made.bounds[i], made.bounds[i + 1])
        assert made.tokens[here].tolist() == tokens and made.trained[here].tolist() == trained
        assert made.trained_count[i] == sum(trained)
    assert made.account['rows'] == 50 and 'JSON lines, alpaca' in made.account['describe']


def test_a_warm_cache_is_not_tokenised_again(rows, chinese, tmp_path, monkeypatch):
    cold = opened(rows, chinese, tmp_path)
    monkeypatch.setattr(tokenizer.Tokenizer, 'assemble', None)  # would fail if it were called
    warm = opened(rows, chinese, tmp_path)
    assert warm.key == cold.key and np.array_equal(warm.tokens, cold.tokens)


def test_whatever_changes_the_tokens_makes_another_entry(rows, chinese, tmp_path):
    keys = {opened(rows, chinese, tmp_path).key}
    keys.add(opened(rows, chinese, tmp_path, name='alpaca').key)
    keys.add(opened(rows, chinese, tmp_path, system='你是助手').key)
    keys.add(opened(rows, chinese, tmp_path, on_bad_row='skip').key)
    rows.write_text(rows.read_text('utf-8').replace('第3个', '第8个'), 'utf-8')
    keys.add(opened(rows, chinese, tmp_path).key)
    assert len(keys) == 5


def test_a_hit_tells_of_the_file_that_was_given(rows, chinese, tmp_path):
    first = opened(rows, chinese, tmp_path)
    copy = rows.with_name('else:where.json')
    copy.write_bytes(rows.read_bytes())
    second = opened(copy, chinese, tmp_path)
    assert second.key == first.key
    for path, made in ((rows, first), (copy, second)):
        assert made.account['path'] == str(path)
        assert made.account['describe'] == f'{path}: JSON lines, alpaca, 50 rows'


def test_conversations_are_equal_where_their_texts_and_marks_are(chinese, tmp_path):
    turns = [{'role': 'user', 'content': '问'}, {'role': 'assistant', 'content': '答'}]
    names = {'role': 'from', 'content': 'value'}
    written = {
        'messages': [{'messages': turns}],
        'sharegpt': [{'conversations': [{names[k]: t[k] for k in t} for t in turns]}],
        'marked': [{'messages': [turns[0], turns[1] | {'weight': 1}]}],
        'not learnt': [{'messages': [turns[0], turns[1] | {'weight': 0}]}],
        'masked': [{'messages': [turns[0], turns[1] | {'masked': True}]}],
    }
    hashes = {}
    for name, made in written.items():
        path = tmp_path / name
        path.write_text('\n'.join(map(json.dumps, made)), 'utf-8')
        hashes[name] = opened(path, chinese, tmp_path).record_hash.tolist()
    assert hashes['messages'] == hashes['sharegpt'] == hashes['marked']
    assert hashes['messages'] != hashes['not learnt'] == hashes['masked']


def test_a_file_rewritten_with_the_same_size_and_time_of_long_ago_is_noticed_by_its_digest(
    rows, chinese, tmp_path
):
    old = time.time() - 100
    os.utime(rows, (old, old))
    first = opened(rows, chinese, tmp_path)
    assert list((tmp_path / 'cache').glob('*.digest.json'))
    rows.write_text(rows.read_text('utf-8').replace('第3个', '第8个'), 'utf-8')
    assert opened(rows, chinese, tmp_path).key != first.key  # its time is another one now


def test_a_system_message_is_added_where_there_is_none(rows, chinese, tmp_path):
    made = opened(rows, chinese, tmp_path, system='你是助手')
    assert chinese.decode(made.tokens[: made.bounds[1]]).startswith('你是助手\n\nHuman: 第0个')


@pytest.mark.parametrize('file', ['tokens.bin', 'trained.bin', 'examples.npz', 'meta.json'])
def test_a_damaged_entry_is_made_again(rows, chinese, tmp_path, file):
    good = opened(rows, chinese, tmp_path).tokens.tolist()
    path = tmp_path / 'cache' / entries(tmp_path)[0] / file
    path.write_bytes(path.read_bytes()[:-3])
    assert opened(rows, chinese, tmp_path).tokens.tolist() == good


def test_a_bad_row_leaves_no_entry(rows, chinese, tmp_path):
    with rows.open('a', encoding='utf-8') as file:
        file.write('\n{"instruction": "x"}\n')
    with pytest.raises(ValueError, match='rows.jsonl:51: the field "output" is missing'):
        opened(rows, chinese, tmp_path)
    assert entries(tmp_path) == []
    assert opened(rows, chinese, tmp_path, on_bad_row='skip').account['skipped'] == {
        'missing field': 1
    }


def _slow(path, directory, cache, signal_path):
    """Another process that stops in the middle of making an entry."""
    made = tokenizer.load(directory)
    real = made.assemble

    def assemble(self, examples):
        signal_path.write_text('here')
        time.sleep(60 if signal_path.name == 'dies' else 1)
        return real(examples)

    tokenizer.Tokenizer.assemble = assemble
    token_cache.open_source(str(path), templates.Template('belle', made), '', 'error', str(cache))


def _started(rows, chinese, tmp_path, name):
    sign = tmp_path / name
    process = multiprocessing.get_context('spawn').Process(
        target=_slow, args=(rows, chinese.directory, tmp_path / 'cache', sign)
    )
    process.start()
    while not sign.exists():
        assert process.is_alive()
        time.sleep(0.05)
    return process


def test_killed_while_writing_nothing_looks_whole_and_the_next_one_cleans_up(
    rows, chinese, tmp_path
):
    process = _started(rows, chinese, tmp_path, 'dies')
    process.kill()  # SIGKILL: nothing is tidied up
    process.join()
    assert len(entries(tmp_path)) == 1 and entries(tmp_path)[0].startswith('.')
    made = opened(rows, chinese, tmp_path)
    assert entries(tmp_path) == [made.key] and len(made.bounds) == 51


def test_two_processes_make_an_entry_once(rows, chinese, tmp_path, monkeypatch):
    process = _started(rows, chinese, tmp_path, 'works')
    monkeypatch.setattr(tokenizer.Tokenizer, 'assemble', None)  # the other one's work is waited for
    made = opened(rows, chinese, tmp_path)
    process.join()
    assert process.exitcode == 0 and len(made.bounds) == 51


def test_texts_are_trained_on_whole_with_their_end(chinese, tmp_path):
    path = tmp_path / 'texts.jsonl'
    path.write_text('{"text": "一二三"}\n{"text": "<|im_end|>四"}\n', 'utf-8')
    made = opened(path, chinese, tmp_path)
    expected = [*chinese.encode('一二三'), 2, *chinese.encode('<|im_end|>四'), 2]
    assert made.tokens.tolist() == expected and made.trained.all()
    assert made.kind.tolist() == [token_cache.TEXT] * 2


@pytest.mark.parametrize('name', ['tokens.bin', 'trained.bin', 'examples.npz', 'meta.json'])
def test_a_flipped_bit_is_found_said_and_made_anew(rows, chinese, tmp_path, name, caplog):
    before = opened(rows, chinese, tmp_path)
    tokens, account = before.tokens.tolist(), before.account
    path = tmp_path / 'cache' / before.key / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    after = opened(rows, chinese, tmp_path)
    assert (after.tokens.tolist(), after.account) == (tokens, account)
    assert f'{before.key} is damaged' in caplog.text and 'made anew' in caplog.text
