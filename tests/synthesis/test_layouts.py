"""Rows in one layout are the same rows in another; what a layout cannot say is counted."""

import json
import os
import tracemalloc

import pytest

from belle_jax.data import row_file, templates
from belle_jax.data.record_reader import RecordReader
from belle_jax.data.records import BadRow
from belle_jax.data.row_file import RowFile, new_row_file
from belle_jax.progress import Progress
from belle_jax.synthesis.layouts import LAYOUTS, convert

NAMES = {
    'belle': ('conversations', 'from', 'value', ('human', 'assistant')),
    'sharegpt': ('conversations', 'from', 'value', ('human', 'gpt')),
    'messages': ('messages', 'role', 'content', ('user', 'assistant')),
}


def laid_out(to, id, texts, extra='', system=''):
    """The row as it should look, written down a second time; None where the layout has no place.

    texts: question, answer, question, answer, ...; a last question may be open.
    """
    open_question = len(texts) % 2 == 1
    row = {'id': id}
    if to in NAMES:
        field, role, content, names = NAMES[to]
        turns = [{role: names[i % 2], content: text} for i, text in enumerate(texts)]
        turns[0][content] += extra
        if system:
            turns.insert(0, {role: 'system', content: system})
        return row | {field: turns}
    answered = texts[:-1] if open_question else texts
    if not answered:
        return None
    *earlier, question, answer = answered
    if to == 'belle_early':
        whole = {'input': question + extra, 'target': answer}
        return None if earlier or system else row | whole
    end = {'system': system} if system else {}
    if to == 'belle_multiturn':
        lines = [('Human:', 'Assistant:')[i % 2] + text for i, text in enumerate(earlier)]
        instruction = '\n'.join([*lines, f'Human:{question}{extra}', 'Assistant:'])
        return row | {'instruction': instruction, 'input': '', 'output': answer} | end
    pairs = [list(pair) for pair in zip(earlier[::2], earlier[1::2])]
    whole = {'instruction': question, 'input': extra, 'output': answer}
    return row | whole | ({'history': pairs} if pairs else {}) | end


def save(path, rows):
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text('\n'.join(lines), 'utf-8')
    return path


def load(path):
    return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


@pytest.fixture(scope='module')
def conversations(shared):
    """Real ones: ShareGPT's, and alpaca's with and without input."""
    found = []
    path = shared / 'data/instructions/sharegpt_zh_1K_format.jsonl'
    for number, line in enumerate(path.read_text('utf-8').splitlines()):
        turns = json.loads(line)['conversations']
        texts = [turn['value'] for turn in turns]
        if all(map(str.strip, texts)):
            found.append({'id': f'sharegpt-{number}', 'texts': texts})
    assert len(found) == 999 and max(len(row['texts']) for row in found) > 20
    rows = json.loads((shared / 'data/instructions/alpaca_zh_demo.json').read_text('utf-8'))
    for number, row in enumerate(rows):
        texts = [row['instruction'], row['output']]
        found.append({'id': number, 'texts': texts, 'extra': row['input']})
    return found


@pytest.mark.parametrize('source', LAYOUTS)
def test_each_layout_becomes_each_other_and_itself_again(tmp_path, conversations, source):
    made = [laid_out(source, **row) for row in conversations]
    kept = [row for row, laid in zip(conversations, made) if laid]
    rows = [row for row in made if row]
    path = save(tmp_path / 'source.jsonl', rows)
    for to in LAYOUTS:
        account = convert(path, tmp_path / f'{to}.jsonl', to, separator='belle')
        known = [dict(row) for row in kept]
        if source not in NAMES:  # the source has lost open questions already
            known = [row | {'texts': row['texts'][: len(row['texts']) // 2 * 2]} for row in known]
        if source != 'alpaca':  # and where an input began
            for row in known:
                first, *others = row['texts']
                row['texts'] = [first + row.pop('extra', ''), *others]
        expected = [laid_out(to, **row) for row in known]
        written = load(tmp_path / f'{to}.jsonl')
        assert written == [row for row in expected if row]
        assert (account.rows, account.written) == (len(rows), len(written))
        assert sum(account.skipped.values()) == expected.count(None)

        # And back again: where nothing was left out or joined, every row is what it was.
        convert(tmp_path / f'{to}.jsonl', tmp_path / 'back.jsonl', source, overwrite=True)
        back = {row['id']: row for row in load(tmp_path / 'back.jsonl')}
        exact = 0
        for row, original in zip(known, rows):
            said = laid_out(to, **row) and (to in NAMES or len(row['texts']) % 2 == 0)
            if said and (to == 'alpaca' or source != 'alpaca' or not row.get('extra')):
                assert back[row['id']] == original
                exact += 1
        assert exact >= 1000


def test_what_a_layout_cannot_say_is_counted(tmp_path, conversations):
    path = save(tmp_path / 'a.jsonl', [laid_out('sharegpt', **row) for row in conversations])
    account = convert(path, tmp_path / 'b.jsonl', 'belle_early')
    texts = [row['texts'] for row in conversations]
    assert account.skipped == {
        'several turns': sum(len(t) > 3 for t in texts),
        'last question without an answer': sum(len(t) == 1 for t in texts),
    }
    assert account.changed == {
        'last question without an answer left out': sum(len(t) == 3 for t in texts)
    }
    assert 'left out, several turns: 6' in str(account)
    assert account.rows == account.written + sum(account.skipped.values())


@pytest.mark.parametrize('source', [name for name in LAYOUTS if name != 'belle_early'])
def test_system_messages_go_along(tmp_path, source):
    row = {'id': 'x', 'texts': ['你好', '您好！', '再见', '慢走。'], 'system': '你是掌柜。'}
    path = save(tmp_path / 'a.jsonl', [laid_out(source, **row)])
    for to in LAYOUTS:
        target = tmp_path / f'{to}.jsonl'
        if to == 'belle_early':
            with pytest.raises(
                ValueError, match=r'no row of .* as belle_early: system message \(1'
            ):
                convert(path, target, to)
            assert not target.exists()
        else:
            convert(path, target, to)
            assert load(target) == [laid_out(to, **row)]


def test_a_file_in_its_own_layout_is_copied_field_by_field(tmp_path, shared):
    for name in ('alpaca_en_demo.json', 'alpaca_zh_demo.json', 'identity.json'):
        path = shared / 'data/instructions' / name
        convert(path, tmp_path / name, 'alpaca')
        assert json.loads((tmp_path / name).read_text('utf-8')) == json.loads(
            path.read_text('utf-8')
        )
    turn = {'from': 'ChatGPT', 'value': ' 好 ', 'weight': 0}
    row = {'conversations': [{'from': 'user', 'value': '在？'}, turn], 'system': 's', 'lang': 'zh'}
    path = save(tmp_path / 'a.jsonl', [row])
    convert(path, tmp_path / 'b.jsonl', 'belle')
    turns = [{'from': 'human', 'value': '在？'}, turn | {'from': 'assistant'}]
    assert load(tmp_path / 'b.jsonl') == [row | {'conversations': turns}]


def test_a_real_file_trains_the_same_in_every_layout(tmp_path, shared):
    """Records of the converted file are those of the original."""
    path = shared / 'data/instructions/ruozhiba_qa2449_gpt4t.json'
    original = [record.messages for record in RecordReader(str(path))]
    for to in LAYOUTS:
        convert(path, tmp_path / f'{to}.json', to)
        reader = RecordReader(str(tmp_path / f'{to}.json'))
        assert [record.messages for record in reader] == original
        assert 'JSON array' in reader.describe


def test_question_and_answer_rows_are_read(tmp_path, shared):
    path = shared / 'data/instructions/gsm8k_test.jsonl'
    convert(path, tmp_path / 'a.jsonl', 'messages')
    expected = [
        {
            'messages': [
                {'role': 'user', 'content': row['question']},
                {'role': 'assistant', 'content': row['answer']},
            ]
        }
        for row in load(path)
    ]
    assert load(tmp_path / 'a.jsonl') == expected


def test_ids_and_further_fields_go_along(tmp_path):
    row = {'instruction': '写诗', 'input': '', 'output': '好', 'id': 7, 'category': 'generation'}
    row |= {'most_similar_instructions': {'作诗': 0.5}, 'avg_similarity_score': 0.25}
    path = save(tmp_path / 'a.jsonl', [row])
    convert(path, tmp_path / 'b.jsonl', 'belle')
    (belle,) = load(tmp_path / 'b.jsonl')
    assert list(belle) == [
        'id', 'conversations', 'category', 'most_similar_instructions', 'avg_similarity_score',
    ]  # fmt: skip
    convert(tmp_path / 'b.jsonl', tmp_path / 'c.jsonl', 'alpaca')
    assert load(tmp_path / 'c.jsonl') == [row]


def test_fields_that_would_change_a_row_are_left_out_and_counted(tmp_path):
    """Stanford's rows hold the whole prompt in `text`; turns may have names."""
    row = {'instruction': 'a', 'input': '', 'output': 'b', 'text': 'whole prompt', 'chosen': None}
    account = convert(save(tmp_path / 'a.jsonl', [row]), tmp_path / 'b.jsonl', 'messages')
    assert list(load(tmp_path / 'b.jsonl')[0]) == ['messages']
    assert account.changed == {'field text left out': 1, 'field chosen left out': 1}
    turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b', 'name': 'x'}]
    path = save(tmp_path / 'c.jsonl', [{'messages': turns}])
    account = convert(path, tmp_path / 'd.jsonl', 'sharegpt')
    assert account.changed == {'further fields of turns left out': 1}


@pytest.mark.parametrize(
    ('instruction', 'given', 'separator', 'joined'),
    [
        ('Translate into French', 'Good morning', 'line', 'Translate into French\nGood morning'),
        ('译成英文：', '早上好', 'line', '译成英文：\n早上好'),
        ('Translate: ', 'Good morning', 'line', 'Translate: Good morning'),  # white space is there
        ('Translate:', '\nGood morning', ' ', 'Translate:\nGood morning'),
        ('译：', '水', 'belle', '译：水'),
        ('译：', '水', '', '译：水'),
        ('Translate ', 'water', ' -- ', 'Translate  -- water'),
    ],
)
def test_instruction_and_input_are_not_run_together(
    tmp_path, instruction, given, separator, joined
):
    row = {'instruction': instruction, 'input': given, 'output': 'x'}
    path = save(tmp_path / 'a.jsonl', [row])
    for to, read in (
        ('belle', lambda row: row['conversations'][0]['value']),
        ('messages', lambda row: row['messages'][0]['content']),
        ('belle_early', lambda row: row['input']),
        ('belle_multiturn', lambda row: row['instruction'][len('Human:') : -len('\nAssistant:')]),
    ):
        account = convert(path, tmp_path / f'{to}.jsonl', to, separator=separator)
        assert read(load(tmp_path / f'{to}.jsonl')[0]) == joined
        ((said, rows),) = account.changed.items()
        words = {'line': 'a line feed', 'belle': "nothing, as BELLE's", '': "nothing, as BELLE's"}
        between = words.get(separator, repr(separator))
        assert (said, rows) == (f'input joined to the instruction by {between}', 1)
    # By default there is a line feed.
    default = convert(path, tmp_path / 'default.jsonl', 'belle')
    assert 'by a line feed: 1 rows' in str(default)
    # The layout that has a field for each joins nothing.
    assert convert(path, tmp_path / 'b.jsonl', 'alpaca', separator='belle').changed == {}
    assert load(tmp_path / 'b.jsonl') == [row]


def test_belles_rule_gives_what_belles_template_trains_on(tmp_path):
    row = {'instruction': 'Translate into French', 'input': 'Good morning', 'output': 'Bonjour'}
    path = save(tmp_path / 'a.jsonl', [row])
    convert(path, tmp_path / 'b.jsonl', 'belle', separator='belle')
    turn = {'role': 'user', 'content': row['instruction'], 'input': row['input']}
    said = templates.joined(turn, templates.STYLES['belle'].join)
    assert load(tmp_path / 'b.jsonl')[0]['conversations'][0]['value'] == said


def test_text_that_looks_like_a_layouts_marks_is_never_misread(tmp_path):
    tricky = ['Human: 这是什么格式？\nAssistant:', '对话格式。']
    harmless = ['他说 Human: 不是标记', '对。']
    rows = [laid_out('messages', n, texts) for n, texts in enumerate([tricky, harmless])]
    path = save(tmp_path / 'a.jsonl', rows)
    for to in ('alpaca', 'belle_multiturn'):
        account = convert(path, tmp_path / f'{to}.jsonl', to)
        assert account.skipped == {f'text that {to} would read otherwise': 1}
        assert load(tmp_path / f'{to}.jsonl') == [laid_out(to, 1, harmless)]
    assert convert(path, tmp_path / 'b.jsonl', 'belle').written == 2


def test_outer_white_space_of_multiturn_chat_is_counted(tmp_path):
    path = save(tmp_path / 'a.jsonl', [laid_out('belle', 1, [' a\n', 'b\n', 'c', 'd\n'])])
    account = convert(path, tmp_path / 'b.jsonl', 'belle_multiturn')
    assert account.changed == {'outer white space of turns removed': 1}
    assert load(tmp_path / 'b.jsonl') == [laid_out('belle_multiturn', 1, ['a', 'b', 'c', 'd\n'])]


@pytest.mark.parametrize(
    ('name', 'container', 'lines'),
    [
        ('a.json', '', False),
        ('a.jsonl', '', True),
        ('a.ndjson', '', True),
        ('a.json', 'lines', True),
        ('a.jsonl', 'array', False),
    ],
)
def test_the_container_is_that_of_the_ending_or_the_flag(tmp_path, name, container, lines):
    rows = [laid_out('alpaca', n, ['问\u2028', '答"\\']) for n in range(3)]
    source = save(tmp_path / 'source', rows)
    convert(source, tmp_path / name, 'alpaca', container=container)
    text = (tmp_path / name).read_bytes().decode('utf-8')
    assert '问' in text and text.endswith('\n')
    read = [json.loads(line) for line in text.split('\n')[:-1]] if lines else json.loads(text)
    assert read == rows


def test_half_characters_of_other_fields_survive(tmp_path):
    row = {'instruction': '问', 'output': '答', 'note': '\ud83d 半'}
    (tmp_path / 'a.jsonl').write_text(json.dumps(row))
    convert(tmp_path / 'a.jsonl', tmp_path / 'b.jsonl', 'messages')
    assert load(tmp_path / 'b.jsonl')[0]['note'] == '\ud83d 半'


def test_bad_rows_have_an_address_or_are_counted(tmp_path):
    good = json.dumps(laid_out('alpaca', 1, ['问', '答']))
    path, target = tmp_path / 'a.jsonl', tmp_path / 'b.jsonl'
    for bad, said, reason in (
        ('{"instruction": ', 'broken JSON at column', 'broken JSON'),
        ('{"instruction": "a", "output": ""}', 'empty answer', 'empty answer'),
        ('{"instruction": "a"}', '"output" is missing', 'missing field'),
        ('[]', 'a row is an object', 'no known fields'),
    ):
        path.write_text(f'{good}\n{bad}\n{good}\n', 'utf-8')
        with pytest.raises(ValueError, match=rf'a\.jsonl:2: .*{said}.*--on_bad_row=skip'):
            convert(path, target, 'messages')
        assert not list(tmp_path.glob('*b.jsonl*'))
        account = convert(path, target, 'messages', on_bad_row='skip')
        assert account.skipped == {reason: 1} and account.written == 2
        target.unlink()


def test_a_target_is_whole_or_untouched(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.jsonl', [laid_out('alpaca', 1, ['问', '答'])])
    target = tmp_path / 'new/b.jsonl'
    convert(path, target, 'messages')
    whole = target.read_bytes()
    with pytest.raises(ValueError, match=r'b\.jsonl is there already'):
        convert(path, target, 'belle')
    with pytest.raises(ValueError, match='is what --rows reads'):
        convert(path, path, 'belle', overwrite=True)
    path.write_text(path.read_text('utf-8') + '\n{', 'utf-8')
    with pytest.raises(ValueError, match=':2: broken JSON'):
        convert(path, target, 'belle', overwrite=True)
    assert target.read_bytes() == whole and [p.name for p in target.parent.iterdir()] == ['b.jsonl']
    with pytest.raises(ValueError, match=r'cannot be written'):
        convert(target, path / 'c.jsonl', 'belle')
    with pytest.raises(ValueError, match='is a directory'):
        convert(target, tmp_path, 'belle', overwrite=True)


@pytest.mark.parametrize('name', ['full.json', 'full.jsonl'])
@pytest.mark.parametrize('length', [1, 100_000])  # refused at the end, and while writing
def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch, name, length):
    monkeypatch.setattr(os, 'fdopen', lambda *_, **__: open('/dev/full', 'wb'))  # noqa: SIM115
    with (
        pytest.raises(ValueError, match=r'full\.jsonl? cannot be written \(no space left'),
        new_row_file(tmp_path / name) as write,
    ):
        write({'a': 'b' * length})
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_block_pass_as_they_are(tmp_path):
    refused = pytest.raises(ConnectionError, match='refused')
    with refused, new_row_file(tmp_path / 'a.json') as write:
        write({})
        raise ConnectionError('refused')
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_rows_is_still_one(tmp_path):
    for name, text in (('a.json', '[]\n'), ('a.jsonl', '')):
        with new_row_file(tmp_path / name):
            pass
        assert (tmp_path / name).read_text() == text


def test_what_cannot_be_converted_is_told(tmp_path):
    source = tmp_path / 'a.jsonl'
    for row, to, said in (
        ({'text': 'prose'}, 'belle', 'plain text'),
        ({'prompt': 'x', 'chosen': 'a', 'rejected': 'b'}, 'belle', 'preference training'),
        ({'instruction': 'a', 'output': 'b'}, 'vicuna', "layout 'vicuna' is unknown.*sharegpt"),
    ):
        save(source, [row])
        with pytest.raises(ValueError, match=said):
            convert(source, tmp_path / 'b.jsonl', to)
    with pytest.raises(ValueError, match='container'):
        convert(source, tmp_path / 'b.jsonl', 'belle', container='csv')
    with pytest.raises(ValueError, match='on_bad_row'):
        convert(source, tmp_path / 'b.jsonl', 'belle', on_bad_row='ignore')
    with pytest.raises(ValueError, match='cannot be read'):
        convert(tmp_path / 'none.json', tmp_path / 'b.jsonl', 'belle')


ARRAY = (
    '\ufeff [ {"a": "甲\\n[,]", "b": [1, {"c": null}]} ,\r\n {} , 12345678, "\\ud83d\\ude00", '
    '-1.5e10]\n\n'
)


def test_an_array_is_read_alike_wherever_it_is_cut(tmp_path, monkeypatch):
    path = tmp_path / 'a.json'
    path.write_bytes(ARRAY.encode('utf-8'))
    expected = json.loads(ARRAY[1:])
    for size in range(1, 90):
        monkeypatch.setattr(row_file, 'CHUNK', size)
        rows = RowFile(path)
        found = list(rows)
        assert [row for _, row in found] == expected and rows.done == 1
        assert [where.rpartition(':')[2] for where, _ in found] == list('12222')


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('[{"a": 1},\n{"a": 2', ':2: the file ends inside the array'),
        ('[{"a": 1},\n', ':2: the file ends inside the array'),
        ('[', ':1: the file ends inside the array'),
        ('[{"a": 1}\n{"a": 2}]', ':2: broken JSON .no comma'),
        ('[{"a": 1}]\n]', ':2: broken JSON .text after the end'),
        ('[{"a": 1},\n\n]', r':3: broken JSON .Expecting value'),
        ('[{"a": 1},\n{"a": nul}' + ' ' * 99 + ']', r':2: broken JSON .Expecting value'),
        ('[{"a": "x},\n{"b": 1}]', ':1: broken JSON|a quote is missing'),
        ('[' * 100_000, ':1: broken JSON .it is nested too deeply'),
    ],
)
@pytest.mark.parametrize('size', [1, 7, 1 << 20])
def test_a_broken_array_has_an_address_wherever_it_is_cut(tmp_path, monkeypatch, text, said, size):
    monkeypatch.setattr(row_file, 'CHUNK', size)
    path = tmp_path / 'a.json'
    path.write_text(text, 'utf-8')
    with pytest.raises(ValueError, match=said):
        list(RowFile(path))


def test_an_array_is_told_broken_before_the_rest_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, 'CHUNK', 1000)
    path = tmp_path / 'a.json'
    path.write_text('[{"a": 1},\n{"a" 2},' + '{"a": 3},' * 10_000, 'utf-8')
    rows = RowFile(path)
    with pytest.raises(ValueError, match=':2: broken JSON'):
        list(rows)
    assert rows.done < 0.5


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, 'CHUNK', 1 << 14)
    row = laid_out('sharegpt', 1, ['问' * 50, '答' * 100])
    with new_row_file(tmp_path / 'a.json') as write:
        for _ in range(6_000):
            write(row)
    assert len(json.loads((tmp_path / 'a.json').read_text('utf-8'))) == 6_000
    assert (tmp_path / 'a.json').stat().st_size > 3_000_000
    tracemalloc.start()
    convert(tmp_path / 'a.json', tmp_path / 'b.json', 'messages')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_lines_yield_what_is_wrong_with_them(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": "\xff"}\n{\n')
    (first, one), (second, two), (third, three) = RowFile(path)
    assert (first, one) == (f'{path}:1', {'a': 1})
    assert second == f'{path}:3' and isinstance(two, BadRow) and two.reason == 'not UTF-8'
    assert third == f'{path}:4' and isinstance(three, BadRow) and three.reason == 'broken JSON'


def test_parquet_is_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [laid_out('messages', str(n), ['问', f'答{n}']) for n in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'a.parquet')
    account = convert(tmp_path / 'a.parquet', tmp_path / 'b.jsonl', 'belle')
    assert 'Parquet' in account.source
    assert load(tmp_path / 'b.jsonl') == [
        laid_out('belle', str(n), ['问', f'答{n}']) for n in range(3)
    ]


def test_progress_is_told(tmp_path, monkeypatch):
    path = save(tmp_path / 'a.jsonl', [laid_out('alpaca', n, ['问', '答']) for n in range(4)])
    seen = []
    monkeypatch.setattr(Progress, 'show', lambda self, rows, done: seen.append((rows, done)))
    convert(path, tmp_path / 'b', 'belle')
    assert [rows for rows, _ in seen] == [1, 2, 3, 4]
    assert seen[-1][1] == 1 and sorted(done for _, done in seen) == [done for _, done in seen]
