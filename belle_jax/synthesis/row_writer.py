"""Writes files of rows that appear under their name only when they are complete."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from belle_jax.files import WholeText

LINES = ('.jsonl', '.ndjson', '.jsonlines')
CONTAINERS = ('array', 'lines')


class Writer:
    """A file of rows to write; use it as a context manager.

    The file gets its name when the block ends without an error. `rows` is how many were written.
    """

    def __init__(
        self, path: str | pathlib.Path, container: str = '', overwrite: bool = False
    ) -> None:
        """Checks the target; the file is opened when the block begins.

        Args:
            path: The target.
            container: 'array' or 'lines'; '' for what its ending says (.jsonl: lines).
            overwrite: Whether a file of that name may be replaced.
        Raises:
            ValueError: the container is unknown, or the file is there or cannot be written; so do
                the beginning and the end of the block, and `write` where the disk is full.
        """
        self.path = pathlib.Path(path)
        self.rows = 0
        if container and container not in CONTAINERS:
            raise ValueError(
                f'the container {container!r} is unknown: choose {" or ".join(CONTAINERS)}.'
            )
        if self.path.is_dir():
            raise ValueError(f'{self.path} is a directory: give the name of a file.')
        if self.path.exists() and not overwrite:
            raise ValueError(f'{self.path} is there already: give another name, or --overwrite.')
        self._lines = container == 'lines' or (not container and self.path.suffix in LINES)
        self._file = WholeText(self.path)

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def write(self, row: Any) -> None:
        """Adds a row."""
        between = '' if self._lines else ',\n' if self.rows else '[\n'
        self._file.write(between + _text(row) + ('\n' if self._lines else ''))
        self.rows += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and not self._lines:
            try:
                self._file.write('\n]\n' if self.rows else '[]\n')
            except ValueError as failure:
                self._file.__exit__(ValueError, failure, failure.__traceback__)
                raise
        self._file.__exit__(kind, error, trace)


@contextlib.contextmanager
def rows_file(
    path: str | pathlib.Path, container: str = '', overwrite: bool = False
) -> Iterator[Callable[[Any], None]]:
    """A Writer's `write`, for a block that adds rows and asks for nothing else."""
    with Writer(path, container, overwrite) as out:
        yield out.write


def _text(row: Any) -> str:
    text = json.dumps(row, ensure_ascii=False)
    if not text.isascii():
        try:
            text.encode('utf-8')
        except UnicodeEncodeError:
            return json.dumps(row)  # half a character stays the escape that it was
    return text
