"""Conversion between the layouts in which people publish instruction data.

Rows are read as training reads them and written one by one. What the target's layout cannot say is
left out, counted and said.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from belle_jax.data.records import BadRow, layout
from belle_jax.data.row_file import RowFile, new_row_file
from belle_jax.synthesis.row_layouts import (
    LAYOUTS,
    READ_AS,
    TURNS,
    Row,
    Unsayable,
    conversation,
    renamed,
    written,
)

# Fields that some layout reads: as a field of another layout's row they would change its meaning.
MEANT = frozenset(
    'instruction input output history system instances conversations messages question answer '
    'prompt completion target text chosen rejected'.split()
)


@dataclasses.dataclass
class ConversionAccount:
    """What became of the rows of one conversion.

    Attributes:
        source: The file that was read, its container and layout.
        target: The file that was written and its layout.
        rows: Rows read.
        written: Rows written.
        skipped: Rows left out, by reason.
        changed: Written rows that lost something or say it otherwise, by what.
    """

    source: str
    target: str
    rows: int = 0
    written: int = 0
    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    changed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        lines = [f'{self.source}: {self.rows:,} rows', f'{self.target}: {self.written:,} rows']
        lines += [f'  left out, {reason}: {n:,}' for reason, n in self.skipped.most_common()]
        lines += [f'  {what}: {n:,} rows' for what, n in self.changed.most_common()]
        return '\n'.join(lines)


def convert(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    to: str,
    *,
    container: str = '',
    separator: str = '',
    on_bad_row: str = 'error',
    overwrite: bool = False,
    progress: Callable[[int, float], None] | None = None,
) -> ConversionAccount:
    """Writes a file of rows again in another layout, row by row.

    Ids and fields that no layout reads (category, similarity) go along as they are. A file that has
    the target's layout already is copied row by row, its roles renamed.

    Args:
        source: JSON array, JSON lines or Parquet, of any layout that training reads, text aside.
        target: The file to write; it appears under its name when it is complete.
        to: The layout, of LAYOUTS.
        container: 'array' or 'lines'; '' for what the target's ending says (.jsonl: lines).
        separator: Between instruction and input where the layout has one field for both; BELLE's
            own converter writes nothing there.
        on_bad_row: 'error' or 'skip' for rows that cannot be read.
        overwrite: Whether a target that is there may be replaced.
        progress: Called with the number of rows and the fraction done.
    Returns:
        What was read, written, left out and changed.
    Raises:
        ValueError: the layout is unknown; a row is bad (with file and line); no row is left; the
            target is there or cannot be written.
    """
    if to not in LAYOUTS:
        raise ValueError(f'the layout {to!r} is unknown: known are {", ".join(LAYOUTS)}.')
    if on_bad_row not in ('error', 'skip'):
        raise ValueError(f"on_bad_row={on_bad_row!r} is unknown: set it to 'error' or 'skip'.")
    source, target = pathlib.Path(source), pathlib.Path(target)
    rows = RowFile(source)
    if target.exists() and target.samefile(source):
        raise ValueError(f'{target} is the source itself: give another name.')
    account = ConversionAccount(f'{source}: {rows.container}', f'{target}: {to}')
    strict = on_bad_row == 'error'
    with new_row_file(target, container, overwrite) as write:
        for converted, changed in _converted_rows(rows, account, to, separator, strict):
            write(converted)
            account.written += 1
            account.changed.update(changed)
            if progress:
                progress(account.rows, rows.done)
        if not account.written:
            reasons = ', '.join(f'{reason} ({n})' for reason, n in account.skipped.items())
            raise ValueError(
                f'no row of {source} can be written as {to}: {reasons or "it holds none"}.'
            )
    return account


def _converted_rows(
    rows: RowFile, account: ConversionAccount, to: str, separator: str, strict: bool
) -> Iterator[tuple[Row, list[str]]]:
    """The rows that can be converted, with what they lost; the others are counted."""
    name = None
    for where, row in rows:
        account.rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            name = name or _source_layout(row, account)
            made = _converted(row, name, to, separator)
        except BadRow as bad:
            if strict:
                raise ValueError(
                    f'{where}: {bad} Mend it, or count and skip such rows with --on_bad_row=skip.'
                ) from bad
            account.skipped[bad.reason] += 1
        except Unsayable as reason:
            account.skipped[str(reason)] += 1
        else:
            yield made


def _source_layout(row: Any, account: ConversionAccount) -> str:
    name = layout(row)
    if name == 'text':
        raise ValueError(
            f'{account.source} holds plain text, which has no question and answer: there is '
            'nothing to convert.'
        )
    account.source += f', {name}'
    return name


def _converted(row: Any, name: str, to: str, separator: str) -> tuple[Row, list[str]]:
    """The row in the other layout, and what it lost or says otherwise."""
    messages, question = conversation(row, name)
    if name == READ_AS[to]:
        return renamed(row, to), []
    if question:
        messages.append({'role': 'user', 'content': question})
    fields, changed = written(messages, to, separator)
    rest, lost = _rest(row, name)
    first = {'id': rest.pop('id')} if 'id' in rest else {}
    return first | fields | rest, changed + lost


def _rest(row: Row, name: str) -> tuple[Row, list[str]]:
    """The fields that are not the layout's own, and what cannot go along."""
    changed = []
    own = {'instruction', 'input', 'output', 'history', 'system'}
    if '/' in name:
        own = set(name.split('/'))
    elif name in TURNS:
        field, *keys = TURNS[name]
        own = {field, 'system'}
        if any(turn.keys() - set(keys) for turn in row[field]):
            changed.append('further fields of turns left out')
    rest = {key: value for key, value in row.items() if key not in own}
    for key in sorted(rest.keys() & MEANT):
        del rest[key]
        changed.append(f'field {key} left out')
    return rest, changed
