"""What a person decided about rows: a file beside them, one line a decision, and what it does.

A decision names its row by what the row says, as it was before any decision, so that it holds
however often the rows are made again. The last decision about a row counts; none is ever erased.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from belle_jax.disk import sentence
from belle_jax.files import locked
from belle_jax.texts.filters import Row

# `keep` and `drop` are about any row; `restore` takes a rejected one back; `edit` does as well.
ACTIONS = ('keep', 'drop', 'edit', 'restore')
# They tell of a row's neighbours, not of the row.
NEIGHBOURS = ('most_similar_instructions', 'avg_similarity_score')
# What a harvest writes behind a row that is too similar.
NEAR = re.compile(r""" to (['"])(.*)\1 \(([\d.]+)\)""", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Decision:
    """One line of the file.

    Attributes:
        row: The row's name, of `Names`.
        action: Of ACTIONS, or 'undo', which takes back the last one about this row.
        edited: The whole row, without neighbours, as an edit leaves it.
    """

    row: str
    action: str
    edited: Row | None = None

    def __post_init__(self) -> None:
        if self.action not in (*ACTIONS, 'undo') or not isinstance(self.row, str):
            raise ValueError(f'{self.action!r} is not something to decide about a row.')
        if isinstance(self.edited, dict) != (self.action == 'edit'):
            raise ValueError('an edit, and nothing else, gives the row as it shall be.')


class Names:
    """Names of rows and rejected pieces, the second of the same content with its number."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def row(self, row: Row) -> str:
        """The name of a row: a digest of what it says, without its neighbours."""
        return self._numbered(_digest(bare(row)))

    def piece(self, piece: Mapping[str, Any]) -> str:
        """The name of a rejected piece: its request and a digest, of its row where it is one."""
        row, _, _ = rejected_row(piece['text'])
        return self._numbered(f'{piece["index"]}:{_digest(piece["text"] if row is None else row)}')

    def _numbered(self, name: str) -> str:
        self._seen[name] += 1
        return name if self._seen[name] == 1 else f'{name}-{self._seen[name]}'


def bare(row: Row) -> Row:
    """A row without what it tells of its neighbours."""
    return {field: value for field, value in row.items() if field not in NEIGHBOURS}


def rejected_row(text: str) -> tuple[Row | None, str, float | None]:
    """The row that a rejected piece is, if it is one; its nearest text and the score, if told."""
    with contextlib.suppress(ValueError, RecursionError):
        row, end = json.JSONDecoder().raw_decode(text)
        near = NEAR.fullmatch(text, end)
        if row and isinstance(row, dict) and (near or end == len(text)):
            return row, near[2] if near else '', float(near[3]) if near else None
    return None, '', None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


class DecisionLog:
    """The decisions of a file, and in a `with` block a place for more, for this process alone."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a last line that was cut off was never said to be kept.

        Args:
            path: The file, which need not exist.
        Raises:
            ValueError: it cannot be read, or holds a line that is not a decision.
        """
        self.path, self._size, self._ended = path, 0, True
        self._open = contextlib.ExitStack()
        self._of: defaultdict[str, list[Decision]] = defaultdict(list)
        self._order: list[str] = []
        try:
            content = path.read_bytes() if path.exists() else b''
        except OSError as error:
            raise ValueError(sentence(error, f'{path} cannot be read')) from error
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            try:
                made = json.loads(line)
                self._take(Decision(made['row'], made['action'], made.get('edited')))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if self._size + len(line) == len(content) and not line.endswith(b'\n'):
                    break
                raise ValueError(
                    f'{path}:{number}: this is not a decision: mend the line, or delete it.'
                ) from error
            self._size += len(line)
            self._ended = line.endswith(b'\n')

    def __getitem__(self, row: str) -> Decision | None:
        return self._of[row][-1] if self._of.get(row) else None

    @property
    def decided(self) -> dict[str, Decision]:
        """What holds, for each row about which anything does."""
        return {row: made[-1] for row, made in self._of.items() if made}

    @property
    def last(self) -> str | None:
        """The row of the last decision that was not undone."""
        return self._order[-1] if self._order else None

    def __enter__(self) -> 'DecisionLog':
        busy = ValueError(f'{self.path} is open in another review: go on there, or end it.')
        try:
            self._open.enter_context(locked(self.path, busy))
            self._file = self._open.enter_context(self.path.open('r+b', buffering=0))
            self._file.truncate(self._size)
        except OSError as error:
            self._open.close()
            what = f'{self.path}, which keeps the decisions, cannot be written'
            raise ValueError(sentence(error, what)) from error
        self._file.seek(self._size)
        if not self._ended:
            self._size += self._file.write(b'\n') or 0
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, decision: Decision) -> None:
        """Keeps a decision, which is on the disk afterwards.

        Raises:
            OSError: the disk refuses it; nothing has changed then.
        """
        values = {name: value for name, value in vars(decision).items() if value is not None}
        values['time'] = datetime.now(UTC).isoformat(timespec='seconds')
        text = json.dumps(values, ensure_ascii=False)
        line = f'{text}\n'.encode(errors='backslashreplace')  # half a character is JSON's escape
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            what = f'{self.path} cannot be written, and the decision is not kept'
            raise OSError(sentence(error, what)) from error
        self._size += len(line)
        self._take(decision)

    def _take(self, decision: Decision) -> None:
        made = self._of[decision.row]
        if decision.action != 'undo':
            made.append(decision)
            self._order.append(decision.row)
        elif made:
            made.pop()
            at = len(self._order) - 1 - self._order[::-1].index(decision.row)
            del self._order[at]


class ByHand:
    """Applies decisions to rows, once, and counts what they did; as text, a sentence on that."""

    def __init__(self, decided: Mapping[str, Decision]) -> None:
        self._decided, self._names, self._found = decided, Names(), 0
        self._taken_back: list[Row] = []
        self.done: Counter[str] = Counter()
        self.left = 0

    @property
    def changes(self) -> bool:
        """Whether any decision does more than to keep a row."""
        return any(decision.action != 'keep' for decision in self._decided.values())

    def see(self, piece: Row) -> None:
        """Takes a rejected piece; all of them, in order, before `rows`."""
        if not (decision := self._decided.get(self._names.piece(piece))):
            return
        self._found += 1
        row = decision.edited or rejected_row(piece['text'])[0]
        if decision.action in ('edit', 'restore') and row:
            self._taken_back.append(row)

    def rows(self, harvested: Iterable[Row]) -> Iterator[Row]:
        """The rows that stay, in order, and behind them the rejected ones that were taken back."""
        for row in harvested:
            decision = self._decided.get(self._names.row(row)) if self._decided else None
            if decision:
                self._found += 1
                self.done[decision.action] += 1
                row = row if decision.edited is None else _replaced(row, decision.edited)
            if not decision or decision.action != 'drop':
                self.left += 1
                yield row
        self.done['restore'] = len(self._taken_back)
        self.left += len(self._taken_back)
        yield from self._taken_back

    def __str__(self) -> str:
        if not self._decided:
            return ''
        done = self.done
        said = (
            f'By hand: {done["drop"]:,} dropped, {done["edit"]:,} edited, {done["restore"]:,} '
            f'taken back: {self.left:,} rows.'
        )
        if lost := len(self._decided) - self._found:
            said += f' Decisions that wait, as their rows were not harvested this time: {lost:,}.'
        return said


def _replaced(row: Row, fields: Row) -> Row:
    """An edited row, with its neighbours as long as it asks what it asked."""
    same = row.get('instruction') == fields.get('instruction')
    return fields | {name: row[name] for name in NEIGHBOURS if same and name in row}
