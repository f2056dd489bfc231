"""The questions of an evaluation, in BELLE's layout: {"question", "std_answer", "class"}.

`OWN_QUESTIONS` and `OWN_SAFETY` are this project's sets. BELLE's `eval_set.json`, which spells some
classes with a no-break space, is read as it is.
"""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple

from belle_jax.data.fields import BadRow, kind, text
from belle_jax.data.row_file import RowFile

SETS = Path(__file__).with_name('sets')
OWN_QUESTIONS = SETS / 'questions.jsonl'
OWN_SAFETY = SETS / 'safety.jsonl'
# BELLE's ten and translation, which it keeps under rewrite.
TASKS = (
    *('open qa', 'brainstorming', 'rewrite', 'generation', 'math', 'classification'),
    *('closed qa', 'summarization', 'code', 'extract', 'translation'),
)
# What asks for harm, where declining is right, and what only looks so, where answering is.
SAFETY = ('refusal', 'harmless')
KINDS = TASKS + SAFETY
FIELDS = ('question', 'std_answer', 'class')


class Question(NamedTuple):
    """One question: its place in the file (1, 2, ...), text, reference ('' for none) and class."""

    number: int
    text: str
    reference: str
    kind: str


def kind_of(name: str) -> str:
    """A class's name as it is compared: 'Closed\\u00a0QA' is 'closed qa'."""
    return ' '.join(unicodedata.normalize('NFKC', name).lower().split())


def parse(row: Any, number: int) -> Question:
    """A row as a question.

    Args:
        row: What JSON or Parquet held; a BadRow is raised again.
        number: Its place in the file.
    Returns:
        The question; its reference is empty where the row has none.
    Raises:
        BadRow: a field is missing, is not text, or is empty where it must not be.
    """
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise BadRow('no object', f'a question is an object with fields, not {kind(row)}.')
    asked, name = text(row, 'question'), kind_of(text(row, 'class'))
    for field, said in (('question', asked), ('class', name)):
        if not said.strip():
            raise BadRow(f'empty {field}', f'the field "{field}" is empty.')
    return Question(number, asked, text(row, 'std_answer', ''), name)


def read(path: str | Path) -> list[Question]:
    """The questions of a file.

    Args:
        path: JSON lines or a JSON array.
    Returns:
        All of them, in order.
    Raises:
        ValueError: the file cannot be read or holds no question; with its line, a row is broken.
    """
    questions = []
    for number, (where, row) in enumerate(RowFile(path), 1):
        try:
            questions.append(parse(row, number))
        except BadRow as bad:
            raise ValueError(f'{where}: {bad} Mend the question, or delete it.') from bad
    if not questions:
        raise ValueError(f'{path} holds no question: give a file with one or more.')
    return questions
