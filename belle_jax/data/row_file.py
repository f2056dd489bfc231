"""Files of rows, read and written one by one, in bounded memory.

Here rows stay what they are, with every field; `record_reader` makes conversations of them for
training.
"""

import codecs
import contextlib
import io
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from belle_jax.data.records import BadRow
from belle_jax.files import WholeText

CHUNK = 1 << 20  # characters read at once
TOKEN = 16  # characters: no literal, number or escape of JSON that a chunk cut is longer
SPACE = re.compile(r'[ \t\r\n]*')
LINES = ('.jsonl', '.ndjson', '.jsonlines')
CONTAINERS = ('array', 'lines')


class RowFile:
    """The rows of a file (JSON array, JSON lines or Parquet; its content says which).

    Iterate over it once. It yields `where` ('rows.json:12') and the row, or a BadRow for a line
    that is not JSON. `done` is the fraction of the file that was read.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        """Looks at the beginning of the file.

        Args:
            path: The file.
        Raises:
            ValueError: it is not there, no file, or empty.
        """
        self.path = pathlib.Path(path)
        self.done = 0.0
        try:
            self._size = self.path.stat().st_size
            with self.path.open('rb') as stream:
                head = stream.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
        except OSError as error:
            raise self._unreadable(error) from error
        if not head:
            raise ValueError(f'{self.path} is empty: give a file with rows.')
        self.container = 'Parquet' if head.startswith(b'PAR1') else 'JSON lines'
        if head.startswith(b'['):
            self.container = 'JSON array'

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        source = {'Parquet': self._parquet, 'JSON lines': self._lines, 'JSON array': self._array}
        try:
            yield from source[self.container]()
        except OSError as error:
            raise self._unreadable(error) from error
        self.done = 1.0

    def _unreadable(self, error: OSError) -> ValueError:
        reason = (error.strerror or str(error)).lower()
        return ValueError(f'{self.path} cannot be read ({reason}): give a file with rows.')

    def _lines(self) -> Iterator[tuple[str, Any]]:
        read = 0
        with self.path.open('rb') as stream:
            for number, line in enumerate(stream, 1):
                read += len(line)
                self.done = read / self._size
                line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
                if line:
                    yield f'{self.path}:{number}', _decoded(line)

    def _array(self) -> Iterator[tuple[str, Any]]:
        with (
            self.path.open('rb') as raw,
            io.TextIOWrapper(raw, encoding='utf-8-sig', newline='') as stream,
        ):
            window = _Window(self.path, stream)
            try:
                window.next()
                window.at += 1  # the opening bracket
                more = window.next() != ']'
                while more:
                    where = f'{self.path}:{window.line()}'
                    yield where, window.value()
                    self.done = raw.tell() / self._size
                    more = window.next() == ','
                    if more:
                        window.at += 1
                        window.next()
                    elif window.next() != ']':
                        raise window.broken(window.at, 'no comma between two entries')
                window.at += 1
                if window.next():
                    raise window.broken(window.at, 'text after the end of the array')
            except UnicodeDecodeError as error:
                raise self._not_utf8() from error

    def _not_utf8(self) -> ValueError:
        """The decoder counts from the chunk that it was given, people count lines."""
        with self.path.open('rb') as stream:
            for number, line in enumerate(stream, 1):
                try:
                    line.decode('utf-8')
                except UnicodeDecodeError as error:
                    return ValueError(
                        f'{self.path}:{number}: the byte {line[error.start]:#04x} is not UTF-8: '
                        'convert the file to UTF-8.'
                    )
        return ValueError(f'{self.path} is not UTF-8: convert the file to UTF-8.')

    def _parquet(self) -> Iterator[tuple[str, Any]]:
        import pyarrow
        import pyarrow.parquet

        number = 0
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                total = max(1, file.metadata.num_rows)
                for batch in file.iter_batches(batch_size=1024):
                    for row in batch.to_pylist():
                        number += 1
                        self.done = number / total
                        yield f'{self.path}, row {number}', row
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(
                f'{self.path}: the Parquet file is damaged after row {number}: copy it again.'
            ) from error


class _Window:
    """A stretch of a long text that moves on as values are taken from it."""

    def __init__(self, path: pathlib.Path, stream: TextIO) -> None:
        self.at = 0
        self._path, self._stream, self._text = path, stream, ''
        self._line, self._counted = 1, 0
        self._decode = json.JSONDecoder().raw_decode

    def next(self) -> str:
        """The next character that is not white space, which is not taken; '' at the end."""
        while True:
            self.at = SPACE.match(self._text, self.at).end()  # pyright: ignore[reportOptionalMemberAccess]
            if self.at < len(self._text) or not self._read():
                return self._text[self.at : self.at + 1]

    def value(self) -> Any:
        """Takes a JSON value."""
        while True:
            try:
                value, end = self._decode(self._text, self.at)
            except json.JSONDecodeError as error:
                # What the window's end cut looks broken there; anything else is broken for good,
                # and is said at once instead of after reading the rest of a large file.
                cut = error.pos > len(self._text) - TOKEN or error.msg.startswith('Unterminated')
                offset = error.pos - self.at  # reading on moves the window
                if not cut or not self._read():
                    raise self.broken(self.at + offset, error.msg) from error
            except RecursionError as error:
                raise self.broken(self.at, 'it is nested too deeply') from error
            else:
                length = end - self.at
                # A number near the window's end may go on behind it.
                sure = isinstance(value, dict) or end + TOKEN < len(self._text)
                if sure or not self._read():
                    self.at += length
                    return value

    def line(self, at: int | None = None) -> int:
        """The line, counted from 1, of a place in the window."""
        at = self.at if at is None else at
        self._line += self._text.count('\n', self._counted, at)
        self._counted = at
        return self._line

    def broken(self, at: int, reason: str) -> ValueError:
        """The error that says what is wrong at a place in the window."""
        end = len(self._text.rstrip())
        what = 'the file ends inside the array' if at >= end else f'broken JSON ({reason})'
        # A cut string is told at its beginning.
        if reason.startswith('Unterminated'):
            what = 'the file ends inside the array, or a quote is missing'
        return ValueError(
            f'{self._path}:{self.line(max(self._counted, min(at, end)))}: {what}: restore or mend '
            'the file.'
        )

    def _read(self) -> bool:
        """Reads on, as much again as is left, so that a long value is not read over and over."""
        fresh = self._stream.read(max(CHUNK, len(self._text) - self.at))
        self.line()
        self._text, self.at, self._counted = self._text[self.at :] + fresh, 0, 0
        return bool(fresh)


def _decoded(line: bytes) -> Any:
    """A line's JSON, or the reason why there is none."""
    try:
        return json.loads(line.decode('utf-8'))
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return BadRow('not UTF-8', f'the byte {byte:#04x} is not UTF-8: convert the file.')
    except json.JSONDecodeError as error:
        return BadRow('broken JSON', f'broken JSON at column {error.colno} ({error.msg}).')
    except RecursionError:
        return BadRow('broken JSON', 'broken JSON: it is nested too deeply.')


@contextlib.contextmanager
def new_row_file(
    path: str | pathlib.Path, container: str = '', overwrite: bool = False
) -> Iterator[Callable[[Any], None]]:
    """A file of rows to write, which gets its name when the block ends without an error.

    Args:
        path: The target.
        container: 'array' or 'lines'; '' for what its ending says (.jsonl: lines).
        overwrite: Whether a file of that name may be replaced.
    Yields:
        What adds a row.
    Raises:
        ValueError: the container is unknown, or the file is there or cannot be written.
    """
    path = pathlib.Path(path)
    if container and container not in CONTAINERS:
        raise ValueError(
            f'the container {container!r} is unknown: choose {" or ".join(CONTAINERS)}.'
        )
    if path.is_dir():
        raise ValueError(f'{path} is a directory: give the name of a file.')
    if path.exists() and not overwrite:
        raise ValueError(f'{path} is there already: give another name, or --overwrite.')
    lines = container == 'lines' or (not container and path.suffix in LINES)
    before, between, after = ('', '\n', '\n') if lines else ('[\n', ',\n', '\n]\n')
    empty = '' if lines else '[]\n'
    written = 0
    with WholeText(path) as file:

        def write(row: Any) -> None:
            nonlocal written
            file.write((between if written else before) + _encoded(row))
            written += 1

        yield write
        file.write(after if written else empty)


def _encoded(row: Any) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode('utf-8')
    except UnicodeEncodeError:
        return json.dumps(row)  # half a character stays the escape that it was
    return text
