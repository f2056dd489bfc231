"""Rows that are there already and are given to a kind: to be evolved, to be labelled."""

import pathlib
from collections.abc import Iterable

from belle_jax.data.records import BadRow
from belle_jax.data.row_file import RowFile
from belle_jax.texts.filters import Row, said


def read(paths: Iterable[str | pathlib.Path]) -> list[Row]:
    """The rows of some files, each of which asks something.

    Args:
        paths: JSON arrays, JSON lines or Parquet, of any layout that `said` reads.
    Returns:
        The rows, in order, as they were.
    Raises:
        ValueError: a file cannot be read; with file and line, a row is broken or asks nothing.
    """
    rows = []
    for path in paths:
        for where, row in _objects(path):
            if not _asks(row):
                raise ValueError(
                    f'{where}: no question is found in the fields {", ".join(map(str, row))}: '
                    'known are instruction, input, question, prompt, conversations and messages. '
                    'Mend the row, or delete it.'
                )
            rows.append(row)
    return rows


def objects(path: str | pathlib.Path) -> list[Row]:
    """The rows of a file whose fields are somebody else's matter.

    Args:
        path: As in `read`.
    Returns:
        The rows, in order.
    Raises:
        ValueError: the file cannot be read, or a row is broken or no object.
    """
    return [row for _, row in _objects(path)]


def _objects(path: str | pathlib.Path) -> Iterable[tuple[str, Row]]:
    for where, row in RowFile(path):
        if isinstance(row, BadRow):
            raise ValueError(f'{where}: {row} Mend the row, or delete it.')
        if not isinstance(row, dict):
            raise ValueError(f'{where}: a row is an object with fields. Mend it, or delete it.')
        yield where, row


def _asks(row: Row) -> bool:
    """Whether there is a question, and all that the row says is text."""
    try:
        texts = said(row)
        return bool(''.join((*texts.questions, texts.given)).strip() and ''.join(texts.all))
    except (AttributeError, TypeError):
        return False
