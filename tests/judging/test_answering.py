"""Answers of other programs, matched to questions."""

import json

import pytest

from belle_jax.judging import answering
from belle_jax.judging.answering import Response
from belle_jax.judging.questions import Question

ASKED = [
    Question(1, '一', '', 'math'),
    Question(2, '二', '', 'math'),
    Question(3, '一', '', 'code'),
]


def written(tmp_path, *rows):
    path = tmp_path / 'answers.jsonl'
    path.write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in rows), 'utf-8')
    return path


@pytest.mark.parametrize(
    'rows',
    [
        # in the order of the questions, though one is asked twice
        [
            {'input': '一', 'output': 'a'},
            {'input': '二', 'output': ''},
            {'input': '一', 'output': 'c'},
        ],
        [{'id': 3, 'answer': 'c'}, {'id': 1, 'answer': 'a'}, {'id': 2, 'answer': ''}],
        [{'prediction': 'a'}, {'prediction': ''}, {'prediction': 'c'}],
    ],
)
def test_answers_are_matched_by_question_number_or_order(tmp_path, rows):
    read = answering.read(written(tmp_path, *rows), ASKED)
    assert [answer.text for answer in read] == ['a', '', 'c']


def test_rows_in_another_order_are_matched_by_their_question(tmp_path):
    rows = [{'question': '二', 'response': 'b'}, {'question': ' 一\n', 'response': 'a'}]
    assert [a.text for a in answering.read(written(tmp_path, *rows), ASKED[:2])] == ['a', 'b']


@pytest.mark.parametrize(
    ('rows', 'said'),
    [
        (
            [{'input': '三', 'output': 'a'}] * 3,
            r'no answer to 3 of 3 questions, the first of them 1',
        ),
        (
            [{'input': '一', 'output': 'a'}],
            "no answer to 1 of 3 questions, the first of them 2 .'二'",
        ),
        ([{'output': 'a'}] * 2, 'no answer to 3 of 3'),
        ([{'input': '一'}], 'answers.jsonl:1 has no answer: it belongs into a field "output"'),
        ([['a']], 'answers.jsonl:1: an answer is an object'),
    ],
)
def test_answers_of_other_questions_are_refused(tmp_path, rows, said):
    with pytest.raises(ValueError, match=said):
        answering.read(written(tmp_path, *rows), ASKED)


def test_an_empty_file_and_a_missing_one_are_told(tmp_path):
    empty = tmp_path / 'empty.jsonl'
    empty.touch()
    with pytest.raises(ValueError, match=r'empty.jsonl is empty'):
        answering.read(empty, ASKED)
    with pytest.raises(ValueError, match=r'nothing.jsonl'):
        answering.read(tmp_path / 'nothing.jsonl', ASKED)


def test_what_is_written_is_read_again(tmp_path):
    answers = [
        Response('a\n"b"', 'stop'),
        Response('', answering.TOO_LONG),
        Response('', answering.FAILED),
    ]
    answering.write(tmp_path / 'a.jsonl', ASKED, answers)
    assert answering.read(tmp_path / 'a.jsonl', ASKED) == answers
    assert [answer.failed for answer in answers] == [False, False, True]
