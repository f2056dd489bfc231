"""Files of rows, read one by one in bounded memory.

Here rows stay what they are, with every field; `record_reader` makes conversations of them for
training.
"""

import codecs
import contextlib
import gzip
import io
import json
import pathlib
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO, cast

from belle_jax.data import containers
from belle_jax.data.fields import BadRow
from belle_jax.data.row_decoder import RowDecoder

CHUNK = 1 << 20  # characters read at once
TOKEN = 16  # characters: no literal, number or escape of JSON that a chunk cut is longer
SPACE = re.compile(r'[ \t\r\n]*')


class RowFile:
    """The rows of a file (JSON or Parquet; its content says which, and whether gzip packed it).

    Iterate over it once. It yields `where` ('rows.json:12') and the row, or a BadRow for a row
    that cannot be read alone. `done` is the fraction of the file that was read.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        """Looks at the beginning of the file.

        Args:
            path: The file.
        Raises:
            ValueError: it is not there, no file, empty, or of a kind that is not read.
        """
        self.path = pathlib.Path(path)
        self.done = 0.0
        self._packed = False
        with self._readable():
            self._size = self.path.stat().st_size
            with self.path.open('rb') as raw:
                self._packed = raw.read(2) == containers.GZIP
            with self._open() as stream:
                head = stream.read(containers.HEAD).removeprefix(codecs.BOM_UTF8)
        if not head.strip():
            raise ValueError(f'{self.path} is empty: give a file with rows.')
        try:
            self._kind = containers.identify(head)
        except ValueError as unread:
            raise ValueError(f'{self.path} {unread}') from None
        if self._packed and self._kind == 'Parquet':
            raise ValueError(f'{self.path} is Parquet packed with gzip: {containers.UNPACK}.')
        self.container = f'{self._kind} in gzip' if self._packed else self._kind

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        with self._readable():
            if self._kind in ('Parquet', 'JSON lines'):
                yield from self._parquet() if self._kind == 'Parquet' else self._lines()
            else:
                yield from self._values()
        self.done = 1.0

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Tells of a file that is not there, or that is damaged, by its name."""
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f'{self.path} is damaged or was cut off (gzip: {error}): copy it again.'
            ) from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ValueError(
                f'{self.path} cannot be read ({reason}): give a file with rows.'
            ) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """The file's bytes, unpacked; `_raw` tells how far the file itself was read."""
        with self.path.open('rb') as self._raw:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if self._packed else self._raw

    def _lines(self) -> Iterator[tuple[str, Any]]:
        decoder = RowDecoder()
        with self._open() as stream:
            for number, line in enumerate(stream, 1):
                self.done = self._raw.tell() / self._size
                line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
                if line:
                    yield f'{self.path}:{number}', _decoded(line, decoder)

    def _values(self) -> Iterator[tuple[str, Any]]:
        """The rows of JSON that goes over lines as it likes."""
        with (
            self._open() as raw,
            io.TextIOWrapper(raw, encoding='utf-8-sig', newline='') as stream,
        ):
            window = _Window(self.path, stream)
            entries = {
                'JSON array': lambda: window.entries(']'),
                'JSON object': lambda: self._members(window),
                'JSON objects': window.texts,
            }
            try:
                for _ in entries[self._kind]():
                    where = f'{self.path}:{window.line()}'
                    yield where, window.value()
                    self.done = self._raw.tell() / self._size
                if window.next():
                    raise window.broken(window.at, 'text after the end of the array')
            except UnicodeDecodeError as error:
                raise self._not_utf8() from error

    def _members(self, window: '_Window') -> Iterator[None]:
        """Stops at each row of an object's list; its other fields are passed over."""
        found = ''
        for _ in window.entries('}'):
            where, name = window.line(), window.name()
            if name not in containers.LISTS or window.next() != '[':
                window.value()
                continue
            if found:
                raise ValueError(
                    f'{self.path}:{where}: there are rows in both "{found}" and "{name}": write '
                    'each list to a file of its own.'
                )
            found = name
            yield from window.entries(']')

    def _not_utf8(self) -> ValueError:
        """The decoder counts from the chunk that it was given, people count lines."""
        with self._open() as stream:
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
                    for row in _listed(batch):
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
        self._decoder = RowDecoder()

    def next(self) -> str:
        """The next character that is not white space, which is not taken; '' at the end."""
        while True:
            self.at = SPACE.match(self._text, self.at).end()  # pyright: ignore[reportOptionalMemberAccess]
            if self.at < len(self._text) or not self._read():
                return self._text[self.at : self.at + 1]

    def entries(self, close: str) -> Iterator[None]:
        """Stops at each entry of the array or object here; whoever asks takes the entry."""
        self.next()
        self.at += 1
        more = self.next() != close
        while more:
            yield
            more = self.next() == ','
            if more:
                self.at += 1
                self.next()
            elif self.next() != close:
                raise self.broken(self.at, 'no comma between two entries')
        self.at += 1

    def texts(self) -> Iterator[None]:
        """Stops at each of the values that follow each other up to the end."""
        while self.next():
            yield

    def name(self) -> Any:
        """Takes a field's name and the colon, up to the value."""
        name = self.value()
        if self.next() != ':':
            raise self.broken(self.at, 'no colon after a field')
        self.at += 1
        self.next()
        return name

    def value(self) -> Any:
        """Takes a JSON value; a BadRow stands for one with a number that has no place here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self.at)
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
                    return self._decoder.checked(value)

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


def _decoded(line: bytes, decoder: RowDecoder) -> Any:
    """A line's JSON, or the reason why there is none."""
    try:
        return decoder.checked(decoder.decode(line.decode('utf-8')))
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return BadRow('not UTF-8', f'the byte {byte:#04x} is not UTF-8: convert the file.')
    except json.JSONDecodeError as error:
        return BadRow('broken JSON', f'broken JSON at column {error.colno} ({error.msg}).')
    except RecursionError:
        return BadRow('broken JSON', 'broken JSON: it is nested too deeply.')


def _listed(batch: Any) -> list[Any]:
    """The rows of a Parquet batch, with a BadRow for each that Python cannot hold."""
    try:
        return batch.to_pylist()
    except ValueError as error:
        if len(batch) == 1:
            return [BadRow('broken field', f'a field cannot be read ({error}).')]
        return [row for at in range(len(batch)) for row in _listed(batch.slice(at, 1))]
