"""Reading questions: BELLE's thousand, our own, and what is refused with which words."""

import json
from collections import Counter
from pathlib import Path

import pytest

from belle_jax.judging import questions

BELLE = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'belle' / 'eval_set.json'
# The table of the paper's set; its closed qa is spelled with a no-break space.
COUNTS = {
    'open qa': 285, 'brainstorming': 179, 'rewrite': 131, 'generation': 98, 'math': 75,
    'classification': 65, 'closed qa': 52, 'summarization': 40, 'code': 38, 'extract': 37,
}  # fmt: skip
ROW = {'question': '1＋1？', 'std_answer': '2', 'class': 'math'}


@pytest.mark.skipif(not BELLE.exists(), reason="needs BELLE's data beside the checkout")
def test_all_of_belles_questions_are_read():
    read = questions.read(BELLE)
    assert Counter(question.kind for question in read) == COUNTS
    assert [question.number for question in read] == list(range(1, 1001))
    empty = Counter(question.kind for question in read if not question.reference)
    assert empty == {'generation': 98, 'brainstorming': 179, 'rewrite': 92}
    assert read[0].text == '请你写出一个可以生成五个不同随机数的 Python 程序。'


def test_a_class_is_the_same_whatever_its_case_and_spaces():
    names = 'Closed QA', ' closed\u00a0qa\n', 'ｃｌｏｓｅｄ　ＱＡ', 'closed   qa'
    assert {questions.kind_of(name) for name in names} == {'closed qa'}


def test_lines_and_a_list_are_the_same_questions_with_or_without_references(tmp_path):
    rows = [ROW, {'question': '写诗', 'class': 'Generation'}, {**ROW, 'std_answer': None}]
    for name, text in (
        ('a.jsonl', '\n\n'.join(json.dumps(row) for row in rows)),
        ('b.json', '\ufeff' + json.dumps(rows, indent=2, ensure_ascii=False)),
    ):
        (tmp_path / name).write_text(text, 'utf-8')
        assert questions.read(tmp_path / name) == [
            (1, '1＋1？', '2', 'math'),
            (2, '写诗', '', 'generation'),
            (3, '1＋1？', '', 'math'),
        ]


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('{"question": "问', 'q.jsonl:2: broken JSON at column'),
        ('[1]', 'q.jsonl:2: a question is an object with fields, not a list.'),
        ('{"question": "问", "std_answer": ""}', 'q.jsonl:2: the field "class" is missing.'),
        ('{"question": "问", "class": "\u00a0"}', 'q.jsonl:2: the field "class" is empty.'),
        ('{"question": " ", "class": "math"}', 'q.jsonl:2: the field "question" is empty.'),
        ('{"question": 3, "class": "math"}', '"question" must be text, not a number.'),
        ('{"question": "a", "class": "math", "std_answer": ["2"]}', '"std_answer" must be text'),
    ],
)
def test_a_broken_question_is_told_with_its_line(tmp_path, line, words):
    path = tmp_path / 'q.jsonl'
    path.write_text(json.dumps(ROW) + '\n' + line + '\n', 'utf-8')
    with pytest.raises(ValueError) as error:
        questions.read(path)
    assert words in str(error.value)
    assert str(error.value).endswith('Mend the question, or delete it.')


@pytest.mark.parametrize(
    ('text', 'words'), [('', 'is empty: give a file'), (' \n', 'is empty'), ('[]', 'no question')]
)
def test_a_file_without_questions_is_refused(tmp_path, text, words):
    path = tmp_path / 'q.json'
    path.write_text(text, 'utf-8')
    with pytest.raises(ValueError, match=words):
        questions.read(path)
    with pytest.raises(ValueError, match='cannot be read'):
        questions.read(tmp_path / 'absent.json')
