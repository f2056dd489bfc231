"""Overlap of training data with evaluation questions, which would be scored from memory.

A training row overlaps a question in one of three ways, the strongest first:

- exact: a turn of the user, or the row's plain text, is the question, but for case, width, white
  space and punctuation marks;
- near: its ROUGE-L with the question reaches a threshold, 0.7 as in de-duplication;
- ngram: any turn shares a run of 13 words with it, as GPT-3's paper counts, where each Chinese
  character is a word. The score is the share of the question's words in such runs of one row: a
  phrase that many rows begin with covers little, a copied passage most.

A question of 8 to 12 words is one run; a shorter one is only compared exactly, since short requests
are alike by chance. The questions are indexed and the training data streams by once.
Source: Brown et al., 2020 (GPT-3), appendix C.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from belle_jax.data.record_reader import RecordReader
from belle_jax.data.records import Record
from belle_jax.progress import Progress
from belle_jax.texts.grams import UNKNOWN, GramIndex, folded
from belle_jax.texts.similarity import ROUGE_REJECTED, Index

KINDS = ('exact', 'near', 'ngram')
SAID = {
    'exact': 'the question is',
    'near': 'the question is nearly the same as',
    'ngram': 'the question shares words with',
}
GRAM, LEAST = 13, 8
BLOCK = 1 << 19  # words that are looked up at once
MARKS = re.compile(r'[\s,.?!;:\'"，。？！；：、“”‘’…]+')


class Overlap(NamedTuple):
    """How training data overlaps a question in one way.

    Attributes:
        question: The question's number.
        kind: One of KINDS.
        file: The training file of the row that overlaps most.
        row: Its number in the file, from 1.
        text: The text that it shares: its own turn, or for ngram the longest stretch of runs.
        score: 1 for exact, ROUGE-L, or the share of the question's words; 0 to 1.
        rows: How many rows overlap the question in this way.
    """

    question: int
    kind: str
    file: str
    row: int
    text: str
    score: float
    rows: int


@dataclass(frozen=True)
class Contamination:
    """What was found.

    Attributes:
        questions: How many were looked for.
        rows: Training rows read.
        skipped: Rows that could not be used, by reason.
        findings: Ordered by question, the strongest kind first.
    """

    questions: int
    rows: int
    skipped: Counter[str]
    findings: tuple[Overlap, ...]

    def overlap(self) -> dict[int, Overlap]:
        """The strongest finding of each question that has one."""
        return {finding.question: finding for finding in reversed(self.findings)}

    def counts(self) -> dict[str, int]:
        """How many questions overlap in each way, by their strongest one."""
        found = Counter(finding.kind for finding in self.overlap().values())
        return {kind: found[kind] for kind in KINDS}

    def sentences(self) -> Iterator[tuple[int, str]]:
        """For each question that overlaps its number, and what it overlaps."""
        for number, found in self.overlap().items():
            yield number, f'{SAID[found.kind]} {found.file}, row {found.row}: {found.text[:80]!r}.'

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        findings = [finding._asdict() for finding in self.findings]
        return {'rows': self.rows, 'questions': self.questions, 'findings': findings}

    def __str__(self) -> str:
        said = ', '.join(f'{n} {kind}' for kind, n in self.counts().items())
        part = len(self.overlap()) / max(1, self.questions)
        text = (
            f'{len(self.overlap()):,} of {self.questions:,} questions ({part:.1%}) overlap '
            f'{self.rows:,} training rows: {said}.'
        )
        if self.skipped:
            reasons = ', '.join(f'{reason} ({n:,})' for reason, n in self.skipped.most_common())
            text += f' Rows skipped: {reasons}.'
        return text


def contamination(
    questions: Mapping[int, str], train: Sequence[str], threshold: float = ROUGE_REJECTED
) -> Contamination:
    """Looks for questions in training files.

    Args:
        questions: Texts by number.
        train: Training files, or data sets by hub name, in any layout that training reads.
        threshold: The ROUGE-L F1 from which a row is near a question, up to 1.
    Returns:
        For each question and kind the row that overlaps most, and how many do.
    Raises:
        ValueError: there is nothing to compare, a file cannot be read, or the threshold is no good.
    """
    if not questions or not train:
        raise ValueError('there is nothing to compare: give questions, and training files.')
    if not 0 < threshold <= 1:
        raise ValueError(f'threshold={threshold} must be above 0, and at most 1, as ROUGE-L is.')
    search, rows, skipped = _Search(questions, threshold), 0, Counter[str]()
    progress = Progress('Comparing with the questions', 'rows')
    # All are opened first, so that a wrong name is told at once.
    readers = [RecordReader(path, 'skip') for path in train]
    for number, reader in enumerate(readers):
        for record in reader:
            search.add(record, reader.path, reader.rows)
            progress.show(rows + reader.rows, (number + reader.done) / len(readers))
        rows += reader.rows
        skipped += reader.skipped
    progress.end(rows)
    return Contamination(len(questions), rows, skipped, search.findings())


class _Search:
    """The indexed questions, and what was found of each so far."""

    def __init__(self, questions: Mapping[int, str], threshold: float) -> None:
        self._questions, self._threshold = list(questions), threshold
        texts = list(questions.values())
        self._grams = GramIndex(texts, GRAM, LEAST)
        self._exact: defaultdict[str, list[int]] = defaultdict(list)
        # Words that no question has are one and the same: they match nothing here either.
        self._near, self._compared = Index(self._grams.numbers), []
        for number, text in enumerate(texts):
            self._exact[_normalised(text)].append(number)
            if self._grams.lengths[number] >= LEAST:
                self._near.add(text)
                self._compared.append(number)
        self._best: dict[tuple[int, int], Overlap] = {}
        self._rows: Counter[tuple[int, int]] = Counter()
        # Of the turns that wait to be looked up: their words, file and row.
        self._block: list[tuple[list[int], str, int]] = []
        self._size = 0

    def add(self, record: Record, file: str, row: int) -> None:
        """Compares a row."""
        messages = [*record.messages, *filter(None, [record.left_out])]
        turns = [
            (message['role'] == 'user', '\n'.join((message['content'], message.get('input', ''))))
            for message in messages
        ] or [(True, record.text or '')]
        found: dict[tuple[int, int], tuple[float, str]] = {}
        for asked, text in turns:
            if asked:
                for kind, number, score in self._compare(text):
                    found[number, kind] = max(found.get((number, kind), (0.0, '')), (score, text))
        for (number, kind), (score, text) in found.items():
            self._note(number, kind, file, row, score, text.strip())
        words: list[int] = []
        for _, text in turns:
            words += (*self._grams.numbers(text), UNKNOWN)  # no run goes over two turns
        self._block.append((words, file, row))
        self._size += len(words)
        if self._size >= BLOCK:
            self._look_up()

    def findings(self) -> tuple[Overlap, ...]:
        """What was found, by question and kind."""
        self._look_up()
        return tuple(self._best[key]._replace(rows=self._rows[key]) for key in sorted(self._best))

    def _compare(self, text: str) -> Iterator[tuple[int, int, float]]:
        """(kind, question, score) of the questions that a text is, and of the one it is nearest."""
        normalised = _normalised(text)
        same = self._exact.get(normalised, ()) if normalised else ()
        yield from ((0, number, 1.0) for number in same)
        match = self._near.nearest(text, self._threshold)
        if match.index >= 0 and self._compared[match.index] not in same:
            yield 1, self._compared[match.index], match.score

    def _look_up(self) -> None:
        shared = self._grams.search([words for words, _, _ in self._block])
        for place, number, share in zip(*(column.tolist() for column in shared)):
            words, file, row = self._block[place]
            best = self._best.get((number, 2))
            better = best is None or share > best.score
            text = self._grams.stretch(words, number) if better else ''
            self._note(number, 2, file, row, share, text)
        self._block.clear()
        self._size = 0

    def _note(self, number: int, kind: int, file: str, row: int, score: float, text: str) -> None:
        key = number, kind
        self._rows[key] += 1
        if key not in self._best or score > self._best[key].score:
            question = self._questions[number]
            self._best[key] = Overlap(question, KINDS[kind], file, row, text, score, 1)


def _normalised(text: str) -> str:
    return MARKS.sub('', folded(text))
