"""Checks a set of questions before a model or a judge sees it.

An error must be mended: a row that cannot be read, a class that nobody can judge, a reference that
is missing where there is a right answer, a question that stands there twice or in the training
data. A warning is for a person to look at.
"""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from belle_jax.data.fields import BadRow
from belle_jax.data.row_file import RowFile
from belle_jax.judging.questions import FIELDS, KINDS, SAFETY, TASKS, Question, parse
from belle_jax.texts.similarity import ROUGE_REJECTED, Index

FEWEST = 8  # questions of a class: a mean over fewer moves by more than a tenth with one answer
OPEN = ('brainstorming', 'generation', 'rewrite')  # BELLE's set has no reference for these
SHOWN = 20  # findings of one kind that are printed

# Which questions occur elsewhere: of each its number, and a sentence that says where.
Overlaps = Callable[[Sequence[Question]], Iterable[tuple[int, str]]]


class Finding(NamedTuple):
    """One thing to mend or to look at."""

    where: str  # 'set.jsonl:12', or the file alone for what concerns all of it
    severity: str  # 'error' or 'warning'
    matter: str  # 'row', 'field', 'class', 'reference', 'duplicate', 'balance' or 'overlap'
    text: str

    def __str__(self) -> str:
        return f'{self.where}: {self.severity}: {self.text}'


@dataclasses.dataclass
class SetCheck:
    """What was found.

    Attributes:
        path: The file.
        questions: Those that can be read.
        findings: Of each row alone, then duplicates, overlap, and what concerns the whole file.
    """

    path: str
    questions: list[Question]
    findings: list[Finding]

    @property
    def errors(self) -> int:
        """How many findings must be mended."""
        return sum(finding.severity == 'error' for finding in self.findings)

    def table(self) -> str:
        """The classes: questions, references, and the median length of a question."""
        rows = [('class', 'questions', 'references', 'characters')]
        present = Counter(question.kind for question in self.questions)
        for kind in sorted(present, key=lambda kind: (_place(kind), kind)):
            rows.append((kind, *_counted([q for q in self.questions if q.kind == kind])))
        rows.append(('all', *_counted(self.questions)))
        width = max(len(name) for name, *_ in rows)
        return '\n'.join(f'{name:{width}}' + '  '.join(f'{c:>11}' for c in r) for name, *r in rows)

    def __str__(self) -> str:
        lines, shown = [], Counter()
        for finding in self.findings:
            group = finding.severity, finding.matter
            shown[group] += 1
            if shown[group] <= SHOWN:
                lines.append(str(finding))
        for (severity, matter), number in shown.items():
            if number > SHOWN:
                lines.append(f'{self.path}: {severity}: {number - SHOWN:,} more about the {matter}')
        errors, warnings = self.errors, len(self.findings) - self.errors
        lines += ['', self.table(), '', f'Errors: {errors:,}. Warnings: {warnings:,}.']
        return '\n'.join(lines).lstrip('\n')


def check(
    path: str | Path, known: Collection[str] = KINDS, overlap: Overlaps | None = None
) -> SetCheck:
    """Checks a file of questions.

    Args:
        path: JSON lines or a JSON array.
        known: The classes that can be judged: those of the rubrics, normalised by `kind_of`.
        overlap: Looks for the questions in training data; None: nobody does.
    Returns:
        What was found.
    Raises:
        ValueError: the file cannot be read at all, or holds no row.
    """
    findings: list[Finding] = []
    placed: dict[int, tuple[str, Question]] = {}
    number = 0
    for number, (where, row) in enumerate(RowFile(path), 1):
        try:
            question = parse(row, number)
        except BadRow as bad:
            findings.append(Finding(where, 'error', 'row', f'{bad} Mend the row, or delete it.'))
            continue
        placed[number] = where, question
        findings += _alone(where, question, row, known)
    if not number:
        raise ValueError(f'{path} holds no question: give a file with one or more.')
    findings += _twice(placed.values())
    questions = [question for _, question in placed.values()]
    for number, text in overlap(questions) if overlap else ():
        findings.append(Finding(placed[number][0], 'error', 'overlap', text))
    findings += _balance(str(path), questions, known)
    return SetCheck(str(path), questions, findings)


def _alone(where: str, question: Question, row: Any, known: Collection[str]) -> Iterator[Finding]:
    """What a question shows without the others."""
    for name in sorted(row.keys() - {*FIELDS}):
        text = f'the field "{name:.40}" is not read: known are {", ".join(FIELDS)}.'
        yield Finding(where, 'warning', 'field', text)
    if question.kind not in known:
        near = difflib.get_close_matches(question.kind, known, 1)
        meant = f'did you mean "{near[0]}"?' if near else f'known are {", ".join(known)}.'
        text = f'the class "{question.kind:.40}" has no rubric: {meant}'
        yield Finding(where, 'error', 'class', text)
    if not question.reference.strip():
        severity = 'error' if question.kind in KINDS and question.kind not in OPEN else 'warning'
        text = f'the reference is empty: a judge of {question.kind:.40} compares with one.'
        yield Finding(where, severity, 'reference', text)


def _twice(placed: Iterable[tuple[str, Question]]) -> Iterator[Finding]:
    """Questions that are the same as an earlier one, or nearly."""
    index, places = Index(), []
    for where, question in placed:
        match = index.nearest(question.text, ROUGE_REJECTED)
        if match.index >= 0:
            same, earlier = match.score == 1, places[match.index]
            how = 'the same as' if same else f'nearly the same (ROUGE-L {match.score:.2f}) as'
            text = f'the question is {how} that of {earlier}: keep one of them.'
            yield Finding(where, 'error' if same else 'warning', 'duplicate', text)
        index.add(question.text)
        places.append(where)


def _balance(path: str, questions: Sequence[Question], known: Collection[str]) -> Iterator[Finding]:
    """Classes with too few questions: those that are there, and what belongs with them."""
    counts = Counter(question.kind for question in questions if question.kind in known)
    for family in (TASKS, SAFETY):
        if any(counts[kind] for kind in family):
            counts.update(dict.fromkeys(family, 0))
    for kind in sorted(counts, key=lambda kind: (_place(kind), kind)):
        if counts[kind] < FEWEST:
            text = (
                f'{kind} has {counts[kind]} of the {FEWEST} questions that a mean needs: add some.'
            )
            yield Finding(path, 'warning', 'balance', text)


def _place(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _counted(questions: Sequence[Question]) -> tuple[str, str, str]:
    references = sum(bool(question.reference.strip()) for question in questions)
    length = median(len(question.text) for question in questions) if questions else 0
    return f'{len(questions):,}', f'{references:,}', f'{length:,.0f}'
