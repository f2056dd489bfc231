"""Row formats: every published layout becomes the same conversation; bad rows have an address."""

import json

import pytest

from belle_jax.data.record_reader import RecordReader
from belle_jax.data.records import parse

ASKED = {'role': 'user', 'content': '你好'}
ANSWERED = {'role': 'assistant', 'content': '您好！'}
SECOND = [{'role': 'user', 'content': '再见'}, {'role': 'assistant', 'content': '慢走'}]


def read(path, text, on_bad_row='error'):
    if isinstance(text, str):
        path.write_text(text, 'utf-8')
    else:
        path.write_bytes(text)
    reader = RecordReader(str(path), on_bad_row)
    return [record.messages for record in reader], reader


def dump(*rows):
    return '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows) + '\n'


LAYOUTS = {
    'alpaca': {'instruction': '你好', 'input': '', 'output': '您好！'},
    'alpaca in the input': {'instruction': '', 'input': '你好', 'output': '您好！'},
    'early BELLE': {'input': '你好', 'target': '您好！'},
    'conversations': {
        'id': '1',
        'conversations': [
            {'from': 'human', 'value': '你好'},
            {'from': 'assistant', 'value': '您好！'},
        ],
    },
    'ShareGPT': {
        'conversations': [{'from': 'user', 'value': '你好'}, {'from': 'gpt', 'value': '您好！'}]
    },
    'OpenAI': {
        'messages': [
            {'role': 'user', 'content': '你好'},
            {'role': 'assistant', 'content': '您好！'},
        ]
    },
    'conversations of role and content': {'conversations': [ASKED, ANSWERED]},
    'messages of from and value': {
        'messages': [{'from': 'human', 'value': '你好'}, {'from': 'gpt', 'value': '您好！'}]
    },
    'lmsys': {'conversation': [ASKED, ANSWERED]},
    'parts of text': {
        'messages': [
            {'role': 'user', 'content': [{'type': 'text', 'text': t} for t in '你好']},
            {'role': 'assistant', 'content': [{'type': 'text', 'text': '您好！'}]},
        ]
    },
    'Dolly': {'instruction': '你好', 'context': '', 'response': '您好！', 'category': 'open_qa'},
    'TRL': {'prompt': [ASKED], 'completion': [ANSWERED]},
    'prompt and response': {'prompt': '你好', 'response': '您好！'},
    'ms-swift': {'query': '你好', 'response': '您好！', 'history': []},
    'OpenOrca': {'system_prompt': '', 'question': '你好', 'response': '您好！'},
    'input and output': {'input': '你好', 'output': '您好！'},
    'gsm8k': {'question': '你好', 'answer': '您好！'},
    'prompt': {'prompt': '你好', 'completion': '您好！'},
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_every_layout_gives_the_same_conversation(tmp_path, name):
    rows, reader = read(tmp_path / 'a.json', dump(LAYOUTS[name]))
    assert rows == [[ASKED, ANSWERED]]
    assert 'JSON lines' in reader.describe and '1 rows' in reader.describe


def test_history_system_and_input_are_kept(tmp_path):
    row = {
        'instruction': '翻译：',
        'input': '再见',
        'output': 'Bye',
        'system': '你是译者',
        'history': [['你好', '您好！']],
    }
    rows, _ = read(tmp_path / 'a.jsonl', dump(row))
    assert rows == [
        [
            {'role': 'system', 'content': '你是译者'},
            ASKED,
            ANSWERED,
            {'role': 'user', 'content': '翻译：', 'input': '再见'},
            {'role': 'assistant', 'content': 'Bye'},
        ]
    ]


@pytest.mark.parametrize(
    'row',
    [
        {'instruction': '再见', 'context': '', 'response': '慢走', 'system': '你是译者'},
        {'query': '再见', 'response': '慢走', 'system': '你是译者'},
        {'question': '再见', 'response': '慢走', 'system_prompt': '你是译者'},
        {'prompt': '再见', 'completion': '慢走', 'system': '你是译者'},
    ],
)
def test_a_single_question_keeps_its_history_and_system_message(tmp_path, row):
    rows, reader = read(tmp_path / 'a.jsonl', dump(row | {'history': [['你好', '您好！']]}))
    system = {'role': 'system', 'content': '你是译者'}
    assert rows == [[system, ASKED, ANSWERED, *SECOND]] and not reader.unread


def test_what_a_question_is_about_goes_with_it(tmp_path):
    row = {'instruction': '翻译：', 'context': '再见', 'response': 'Bye', 'category': 'x'}
    rows, reader = read(tmp_path / 'a.jsonl', dump(row))
    assert rows[0][0] == {'role': 'user', 'content': '翻译：', 'input': '再见'}
    assert reader.unread == {'category': 1}


def test_of_lists_of_prompt_and_completion_the_completion_alone_is_learnt(tmp_path):
    row = {'prompt': [ASKED, ANSWERED, SECOND[0]], 'completion': [SECOND[1]]}
    rows, _ = read(tmp_path / 'a.jsonl', dump(row))
    assert rows == [[ASKED, ANSWERED | {'trained': False}, *SECOND]]


def test_multiturn_chat_is_split_into_its_turns(tmp_path):
    row = {'instruction': 'Human:你好\nAssistant:您好！\nHuman:再见\nAssistant:\n', 'input': ''}
    rows, reader = read(tmp_path / 'a.json', dump(row | {'output': '慢走'}))
    assert rows == [[ASKED, ANSWERED, *SECOND]]
    assert 'BELLE multiturn_chat' in reader.describe


def test_a_text_that_only_looks_like_history_stays_one_turn(tmp_path):
    text = 'Human: 是什么意思？\nAssistant: 又是什么？'
    rows, _ = read(tmp_path / 'a.json', dump({'instruction': text, 'output': '人和助手'}))
    assert rows[0][0] == {'role': 'user', 'content': text}


def test_array_lines_parquet_and_a_data_set_hold_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{'instruction': f'问{i}', 'input': '', 'output': f'答{i}'} for i in range(5)]
    array = json.dumps(rows, ensure_ascii=False, indent=1)
    expected, reader = read(tmp_path / 'array.json', array)
    assert len(expected) == 5 and reader.container == 'JSON array'
    assert read(tmp_path / 'lines.json', dump(*rows))[0] == expected
    assert read(tmp_path / 'bom.json', b'\xef\xbb\xbf' + array.encode())[0] == expected
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'p')
    reader = RecordReader(str(tmp_path / 'p'))
    assert [r.messages for r in reader] == expected and reader.container == 'Parquet'
    # A directory goes the way that a hub name goes, through datasets.load_dataset.
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set' / 'train.jsonl').write_text(dump(*rows), 'utf-8')
    reader = RecordReader(f'{tmp_path / "set"}')
    assert [r.messages for r in reader] == expected and reader.container == 'hub data set'
    assert len(reader.digest()) == 64


GOOD = {'instruction': '问', 'output': '答'}
BAD = {
    'broken JSON': ('{"instruction": ', 'broken JSON at column'),
    'missing field': (json.dumps({'instruction': '问'}), 'the field "output" is missing'),
    'broken field': (json.dumps({'instruction': 3, 'output': 'x'}), '"instruction" must be text'),
    'empty answer': (json.dumps({'instruction': '问', 'output': ' '}), 'turn 2 is an empty answer'),
    'broken field: history of nothing': (
        json.dumps({'instruction': '问', 'output': '答', 'history': [None]}),
        'each entry of "history"',
    ),
    'broken field: history is a number': (
        json.dumps({'instruction': '问', 'output': '答', 'history': 5}),
        '"history" must be a list, not a number',
    ),
    'broken field: history is not nested': (
        json.dumps({'instruction': '问', 'output': '答', 'history': ['ab', 'cd']}),
        'each entry of "history"',
    ),
    'not UTF-8: history': (
        json.dumps({'instruction': '问', 'output': '答', 'history': [['a', '\ud83d']]}),
        'the field "history" holds half of a character',
    ),
    'not UTF-8': (b'{"instruction": "\xff", "output": "x"}', 'the byte 0xff is not UTF-8'),
}


@pytest.mark.parametrize('reason', BAD)
def test_a_bad_row_is_an_error_with_file_and_line_or_is_counted(tmp_path, reason):
    line, message = BAD[reason]
    line = line if isinstance(line, bytes) else line.encode()
    data = b'\n'.join([dump(GOOD).strip().encode(), line, dump(GOOD).strip().encode()])
    with pytest.raises(ValueError) as error:
        read(tmp_path / 'a.jsonl', data)
    assert str(error.value).startswith(f'{tmp_path}/a.jsonl:2: ') and message in str(error.value)
    rows, reader = read(tmp_path / 'a.jsonl', data, 'skip')
    assert len(rows) == 2 and reader.rows == 3 and reader.skipped == {reason.partition(':')[0]: 1}


def test_a_bad_row_of_an_array_has_its_line_too(tmp_path):
    text = '[\n {"instruction": "问",\n  "output": "答"},\n {"instruction": "问"}\n]'
    with pytest.raises(ValueError, match='a.json:4: the field "output" is missing'):
        read(tmp_path / 'a.json', text)
    with pytest.raises(ValueError, match='a.json:3: the file ends inside the array'):
        read(tmp_path / 'a.json', text[:40], 'skip')


def test_half_a_character_is_a_bad_row_in_every_text(tmp_path):
    turns = [{'from': 'human', 'value': '问'}, {'from': 'gpt', 'value': '答'}]
    for row in (
        {'instruction': '问', 'output': '\ud83d'},
        {'instruction': '问', 'output': '答', 'system': '\udc00'},
        {'conversations': turns, 'system': '\udc00'},
        {'conversations': [turns[0], {'from': 'gpt', 'value': 'x\ud83d'}]},
        {'text': '\ud83d'},
    ):
        with pytest.raises(ValueError, match='a.json:1: the field .* holds half of a character'):
            read(tmp_path / 'a.json', json.dumps(row))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[\n{0},\n{0}\n]\n[{0}]', 'a.json:5: broken JSON .text after the end of the array'),
        ('[{0}]\n\n{0}', 'a.json:3: broken JSON .text after the end of the array'),
        ('[\n{0}\n{0}]', 'a.json:3: broken JSON .no comma between two entries'),
        ('[\n{0},,\n{0}]', 'a.json:2: broken JSON .Expecting value'),
        ('[\n{0},\n', 'a.json:3: the file ends inside the array'),
        ('[\n{0},\n' + '[' * 200_000, 'a.json:3: broken JSON .it is nested too deeply'),
    ],
)
def test_an_array_is_one_whole_array(tmp_path, text, message):
    for on_bad_row in ('error', 'skip'):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / 'a.json', text.replace('{0}', json.dumps(GOOD)), on_bad_row)


def test_an_unknown_role_is_never_trained_on_as_an_assistant(tmp_path):
    turns = [{'from': 'human', 'value': '问'}, {'from': 'tool', 'value': '答'}]
    with pytest.raises(ValueError, match="a.json:1: the role 'tool' is unknown"):
        read(tmp_path / 'a.json', dump({'conversations': turns}))


def test_turns_must_alternate(tmp_path):
    turns = [{'from': 'gpt', 'value': '答'}, {'from': 'human', 'value': '问'}]
    with pytest.raises(ValueError, match='turn 1 is of role assistant where user belongs'):
        read(tmp_path / 'a.json', dump({'conversations': turns}))


def test_a_last_question_without_answer_is_left_out_and_counted(tmp_path):
    turns = [ASKED, ANSWERED, {'role': 'user', 'content': '还在吗？'}]
    rows, reader = read(tmp_path / 'a.json', dump({'messages': turns}))
    assert rows == [[ASKED, ANSWERED]] and reader.unanswered == 1
    record, unanswered = parse({'messages': turns}, 'OpenAI messages')
    assert unanswered == 1 and record.left_out == turns[-1]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'is empty'),
        (' \n', 'is empty'),
        ('[]', 'has no usable row'),
        (dump({'chosen': 'a', 'rejected': 'b'}), 'preference training'),
        (dump({'question': 'a', 'std_answer': 'b'}), 'of no known layout'),
        ('只是文字\n', 'a.json:1: broken JSON'),
    ],
)
def test_a_file_without_usable_rows_is_an_error_that_names_it(tmp_path, content, message):
    with pytest.raises(ValueError, match='a.json') as error:
        read(tmp_path / 'a.json', content)
    assert message in str(error.value)


def test_skipping_everything_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r'all were skipped for missing field \(1\)'):
        read(tmp_path / 'a.json', dump({'instruction': '问'}), 'skip')


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='the Parquet file is damaged'):
        read(tmp_path / 'a', b'PAR1' + b'x' * 100)


def test_a_path_that_is_nothing_is_an_error():
    with pytest.raises(ValueError, match='/no/such/file.json is not there'):
        RecordReader('/no/such/file.json')
    with pytest.raises(ValueError, match='as a hub data set it could not be loaded'):
        RecordReader('nobody/nothing')


def test_the_real_files_are_read_whole(shared):
    expected = {
        'belle/dev1K.json': 1000,
        'instructions/alpaca_zh_demo.json': 1000,
        'instructions/ruozhiba_qa2449_gpt4t.json': 2449,
        'instructions/gsm8k_train.jsonl': 7473,
        'instructions/sharegpt_zh_1K_format.jsonl': 999,
        'text/wikitext2_val_sample.jsonl': 2461,
    }
    for name, count in expected.items():
        assert sum(1 for _ in RecordReader(str(shared / 'data' / name), 'skip')) == count
