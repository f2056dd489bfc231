"""Fields of rows: marks of what is learnt, parts of a turn, and what nothing reads."""

import json

import pytest

from belle_jax.data import record_reader
from belle_jax.data.record_reader import RecordReader
from belle_jax.data.records import BadRow, layout, parse


def talk(*marks, **fields):
    """A conversation of one answer for each mark."""
    turns = []
    for mark in marks:
        turns += [{'role': 'user', 'content': '问'}, {'role': 'assistant', 'content': '答'} | mark]
    return {'messages': turns} | fields


def learnt(row):
    record, _ = parse(row, layout(row))
    return [m.get('trained', True) for m in record.messages if m['role'] == 'assistant']


def read(path, *rows):
    path.write_text('\n'.join(map(json.dumps, rows)), 'utf-8')
    reader = RecordReader(str(path))
    return list(reader), reader


@pytest.mark.parametrize('name', ['weight', 'loss', 'train', 'training'])
def test_a_mark_says_which_answers_are_learnt(name):
    row = talk({name: 0}, {name: 1}, {name: False}, {name: True}, {name: None}, {}, {name: 0.0})
    assert learnt(row) == [False, True, False, True, True, True, False]


def test_a_mask_says_the_opposite():
    assert learnt(talk({'masked': True}, {'masked': False}, {})) == [False, True, True]
    assert (
        learnt(talk({'masked': False, 'weight': 0}, {'loss': True, 'train': False})) == [False] * 2
    )
    turns = [{'from': 'User', 'value': '问'}, {'from': 'Assistant', 'value': '答'}]
    row = {'conversations': turns, 'system': '', 'mask': 'User'}
    assert learnt(row) == [True] and learnt(row | {'mask': 'Assistant'}) == [False]


@pytest.mark.parametrize(
    ('mark', 'message'),
    [
        ({'weight': 0.5}, '"weight" of a turn must be 0, 1, true or false'),
        ({'loss': 'false'}, '"loss" of a turn must be 0, 1'),
        ({'weight': float('nan')}, '"weight" of a turn must be 0, 1'),
        ({'train_detail': [{'begin_offset': 0, 'end_offset': 1, 'train': False}]}, 'stretches'),
    ],
)
def test_a_mark_that_cannot_be_followed_is_a_bad_row(mark, message):
    with pytest.raises(BadRow, match=message) as error:
        learnt(talk({}, mark))
    assert error.value.reason == 'broken mark'
    with pytest.raises(BadRow, match="the role 'nobody' is unknown"):
        learnt(talk({}, mask='nobody'))


@pytest.mark.parametrize(
    ('parts', 'reason', 'message'),
    [
        ([{'type': 'image_url', 'image_url': {'url': 'x'}}], 'image part', "type 'image_url'"),
        ([{'type': 'input_audio'}], 'part that is not text', "type 'input_audio'"),
        ([{'text': 'x'}], 'missing field', '"type" is missing'),
        (['x'], 'broken field', 'a part of "content" is an object, not text'),
        ([{'type': 'text', 'text': '\ud83d'}], 'not UTF-8', 'half of a character'),
    ],
)
def test_a_part_that_is_not_text_is_a_bad_row_by_name(parts, reason, message):
    with pytest.raises(BadRow, match=message) as error:
        learnt(talk({'content': parts}))
    assert error.value.reason == reason


def test_what_no_layout_reads_is_named_once_with_counts(tmp_path):
    rows = [
        talk({'name': 'x', 'weight': 0}, {'name': 'y'}, tools=[{}], id=i, extra='', mask=None)
        for i in range(3)
    ]
    rows[0]['messages'][0] |= {'weight': 1}
    rows[1]['messages'][0] |= {'weight': 0, 'loss': None, 'refusal': None}
    _, reader = read(tmp_path / 'a.jsonl', *rows)
    assert reader.unread == {
        'id': 3,
        'tools': 3,
        'messages[].name': 6,
        'messages[].weight': 1,
    }
    row = {'instruction': '问', 'output': '答', 'history': [], 'system': 'x', 'system_prompt': 'y'}
    _, reader = read(tmp_path / 'b.jsonl', row | {'text': 'x', 'input': ''})
    assert reader.unread == {'text': 1, 'system_prompt': 1}


def test_names_that_a_file_makes_up_take_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(record_reader, 'NAMED', 3)
    rows = [{'text': 'x', f'f{i}': 1, '\ud800\n' + 'n' * 99: 1} for i in range(50)]
    _, reader = read(tmp_path / 'a.jsonl', *rows)
    assert reader.unread == {'f0': 1, '??' + 'n' * 58: 50, 'f1': 1, '(others)': 48}


def test_a_row_of_a_thousand_fields_is_told_in_a_line(tmp_path):
    with pytest.raises(ValueError, match='a row with the fields 0, 1, .*11, … is of no') as error:
        read(tmp_path / 'a.jsonl', {str(i): {} for i in range(1000)})
    assert len(str(error.value)) < 700
