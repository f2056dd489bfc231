"""Near-duplicates out of files: the first row of its kind stays, later ones go to a second file.

Rows come from files of any layout, in order, and leave unchanged. They are read, compared and
written block by block; in memory stay the compared texts of the kept rows and their index, which is
exact until there are many, and MinHash then.

What is compared is what a model would be asked: an instruction with its input, all questions of a
conversation, without answers and system message. Two rows are alike if the whole is, and if they
have equally many parts (instruction, input, each further question), each part is too: a long
instruction does not hide that the inputs differ, nor a long input that the instructions do.
"""

import collections
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from belle_jax.data.records import BadRow, layout, parse
from belle_jax.data.row_file import RowFile, new_row_file
from belle_jax.disk import distinct
from belle_jax.progress import Progress
from belle_jax.texts.minhash import RECALL, MinHashIndex, plan
from belle_jax.texts.parts import Parts
from belle_jax.texts.rouge import Tokens
from belle_jax.texts.similarity import Index

COMPARE = ('question', 'instruction', 'row')
BLOCK = 1024  # rows that are read, compared and written at once
# Kept rows up to which everything is compared exactly, which takes half a minute. The index' lists
# grow with the pool, so the tenth hundred thousand would take ten minutes.
EXACT = 100_000
SHOWN = 20  # groups that the account names


@dataclasses.dataclass
class DedupeAccount:
    """What became of the rows.

    Attributes:
        read: Rows read, skipped ones included.
        kept: Rows written to the output.
        same: Rows removed whose compared text is that of a kept row.
        near: Rows removed whose score with a kept row reached the threshold.
        asked_else: Removed rows that ask for more than the compared instruction, and something else
            there than the kept row: another input, other questions after the first.
        empty: Kept rows without a token to compare.
        skipped: Rows that could not be used, by reason; in neither file.
        exact_until: Kept rows after which hashing found the candidates; None: it was never needed.
        recall: The least probability with which hashing finds a score of the threshold.
        groups: The kept rows that removed most others: (number in the output, removed, text).
        output: The file of the kept rows.
        removed: The file of the removed rows.
    """

    read: int = 0
    kept: int = 0
    same: int = 0
    near: int = 0
    asked_else: int = 0
    empty: int = 0
    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    exact_until: int | None = None
    recall: float = 1.0
    groups: list[tuple[int, int, str]] = dataclasses.field(default_factory=list)
    output: str = ''
    removed: str = ''

    def __str__(self) -> str:
        gone = f'{self.same:,} the same and {self.near:,} nearly the same as an earlier one'
        lines = [f'{self.read:,} rows read: {self.kept:,} kept, {gone}.']
        if self.asked_else:
            lines.append(
                f'{self.asked_else:,} of the removed had another input, or other questions after '
                'the first: --compare=question compares these too.'
            )
        if self.skipped:
            reasons = ', '.join(f'{reason} ({n:,})' for reason, n in self.skipped.most_common())
            lines.append(f'Skipped: {reasons}.')
        if self.exact_until is not None:
            lines.append(
                f'From {self.exact_until:,} kept rows on, hashing found the candidates: at the '
                f'threshold it finds {self.recall:.0%} or more, just above it nearly all.'
            )
        lines += [f'{n:,} like row {row}: {text[:60]!r}' for row, n, text in self.groups]
        return '\n'.join([*lines, f'Kept: {self.output}', f'Removed: {self.removed}'])


def run(
    paths: Sequence[str | pathlib.Path],
    output: str | pathlib.Path,
    threshold: float = 0.7,
    tokens: Tokens = 'characters',
    compare: str = 'question',
    removed: str | pathlib.Path = '',
    exact: int = EXACT,
    on_bad_row: str = 'error',
    overwrite: bool = False,
) -> DedupeAccount:
    """Writes the rows of some files without near-duplicates.

    Args:
        paths: The files, in the order in which rows win.
        output: The file of the kept rows, as they were; JSON lines if it ends so, else an array.
        threshold: A row goes if its ROUGE-L F1 with a kept row is at least this.
        tokens: What is compared: 'characters', 'words', or a function (see `encoder`).
        compare: 'question': all that is asked; 'instruction', or first question, alone; 'row':
            answers too.
        removed: The file of the removed rows: each with where it stood, the number (from 1) of the
            kept row that is nearest, that row's compared text, and the score. By default the
            output's name with `.removed.jsonl`.
        exact: Kept rows up to which all are compared exactly.
        on_bad_row: 'error' or 'skip'.
        overwrite: Whether both files may replace others.
    Returns:
        The account.
    Raises:
        ValueError: a setting or file is no good, or a row and on_bad_row is 'error'. No file is
            written then.
    """
    removed = removed or pathlib.Path(output).with_suffix('.removed.jsonl')
    account = DedupeAccount(output=str(output), removed=str(removed))
    _check(paths, threshold, compare, on_bad_row)
    distinct({'--rows': paths}, {'--output': [output, removed]})
    kept = _Kept(tokens, threshold, exact, account, compare == 'question')
    progress = Progress('Deduplicating', 'rows')
    # Opened before anything is read: a name that is wrong is told at once.
    files = [RowFile(path) for path in paths]
    rows = _rows(files, compare, on_bad_row == 'error', account)
    kept_rows = new_row_file(output, overwrite=overwrite)
    # Without the output, the file of what was removed is that of a run which was killed in between.
    again = overwrite or not pathlib.Path(output).exists()
    with kept_rows as keep, new_row_file(removed, 'lines', again) as remove:
        while block := list(itertools.islice(rows, BLOCK)):
            kept.prepare([text for _, text, _, _ in block])
            for where, text, parts, row in block:
                if near := kept.near(text, parts):
                    remove({'where': where, **near, 'row': row})
                else:
                    keep(row)
                    kept.add(text, parts)
            progress.show(account.read, sum(file.done for file in files) / len(files))
        if not account.kept:
            raise ValueError(f'{", ".join(map(str, paths))}: no usable row: {account}')
    progress.end(account.read)
    account.groups = kept.groups()
    return account


class _Kept:
    """The compared texts of the kept rows, their index, and how many rows each of them removed."""

    def __init__(
        self, tokens: Tokens, threshold: float, exact: int, account: DedupeAccount, by_parts: bool
    ) -> None:
        self._index, self._threshold = Index(tokens), threshold
        self._exact, self._account = exact, account
        self._alike = Parts(tokens, threshold) if by_parts else None
        self._texts: list[str] = []
        self._parts: list[tuple[str, ...]] = []
        self._removed: collections.Counter[int] = collections.Counter()

    def prepare(self, texts: list[str]) -> None:
        """Gets ready for a block; hashing begins where there are too many to compare exactly."""
        account, index = self._account, self._index
        if account.exact_until is None and len(index) >= self._exact:
            self._index = index = MinHashIndex.over(index, self._threshold)
            account.exact_until, account.recall = len(index), index.bands.recall(self._threshold)
        index.prepare(texts)

    def near(self, text: str, parts: tuple[str, ...]) -> dict[str, Any]:
        """The kept row that removes a text, as the file of the removed rows names it, or {}."""
        alike = self._alike and functools.partial(self._alike.alike, parts)
        match = self._index.nearest(text, self._threshold, alike)
        if match.index < 0:
            return {}
        if not alike:
            self._account.asked_else += parts[1:] != self._parts[match.index][1:]
        self._removed[match.index] += 1
        self._account.same += match.score == 1
        self._account.near += match.score < 1
        nearest, score = self._texts[match.index], round(match.score, 4)
        return {'kept': match.index + 1, 'nearest': nearest, 'score': score}

    def add(self, text: str, parts: tuple[str, ...]) -> None:
        """Adds the text of a row that is kept, and the parts of what it asks."""
        self._account.kept += 1
        self._account.empty += not self._index.size(self._index.add(text))
        self._texts.append(text)
        if self._alike:
            self._alike.add(parts)
        else:
            self._parts.append(parts)

    def groups(self) -> list[tuple[int, int, str]]:
        """The kept rows that removed most others, as the account names them."""
        return [(i + 1, n, self._texts[i]) for i, n in self._removed.most_common(SHOWN)]


def _rows(
    files: list[RowFile], compare: str, strict: bool, account: DedupeAccount
) -> Iterator[tuple[str, str, tuple[str, ...], Any]]:
    """The rows of several files, each with its place, and what is compared: see `compared`."""
    for where, row in itertools.chain.from_iterable(files):
        account.read += 1
        try:
            if isinstance(row, BadRow):
                raise row
            yield where, *compared(row, compare), row
        except BadRow as bad:
            if strict:
                raise bad.refused(where, '--on_bad_row') from bad
            account.skipped[bad.reason] += 1


def compared(row: Any, compare: str = 'question') -> tuple[str, tuple[str, ...]]:
    """What is compared of a row.

    Args:
        row: A row of any layout, BELLE's seed tasks included.
        compare: One of COMPARE.
    Returns:
        The text, and the parts of what the row asks; they are not told apart for 'row'.
    Raises:
        BadRow: the row is of no known layout.
    """
    if isinstance(row, dict) and isinstance(row.get('instances'), list) and 'output' not in row:
        instance = row['instances'][0] if row['instances'] else {}
        row = {'instruction': row.get('instruction'), 'input': '', 'output': '', **instance}
    record, _ = parse(row, layout(row))
    if record.text is not None:
        return record.text, ()
    turns = [message for message in record.messages if message['role'] != 'system']
    if compare != 'row':
        turns = [turn for turn in turns if turn['role'] == 'user']
    fields = ('content', 'input')
    parts = tuple(turn[field] for turn in turns for field in fields if turn.get(field))
    text = '\n'.join(parts[:1] if compare == 'instruction' else parts)
    return text, () if compare == 'row' else parts


def _check(
    paths: Sequence[str | pathlib.Path], threshold: float, compare: str, on_bad_row: str
) -> None:
    if not paths:
        raise ValueError('there are no files to read: name one or more.')
    if not 0.1 <= threshold <= 1:
        raise ValueError(
            f'threshold={threshold} must be from 0.1 to 1: every two texts share a little, and '
            'none more than all. BELLE-like data takes --threshold=0.7.'
        )
    plan(threshold, RECALL)
    choices = ('compare', compare, COMPARE), ('on_bad_row', on_bad_row, ('error', 'skip'))
    for name, value, known in choices:
        if value not in known:
            raise ValueError(f'{name}={value!r} is unknown: choose {", ".join(known)}.')
