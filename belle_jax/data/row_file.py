"""Files of rows, read and written one by one, in bounded memory.

Here rows stay what they are, with every field; `record_reader` makes conversations of them for
training.
"""

import codecs
import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from belle_jax import storage
from belle_jax.data import containers
from belle_jax.data.fields import BadRow
from belle_jax.data.json_values import LONG, ROW, RowDecoder, Window, decoded
from belle_jax.disk import sentence
from belle_jax.files import WholeText

CHUNK = 1 << 20  # characters read at once
BATCH = 64  # rows of Parquet at once, each of which may be as long as `ROW`
UNPACKED, FREE = 200, 1 << 20  # times its size that gzip may unpack to, and bytes beyond
LINES = ('.jsonl', '.ndjson', '.jsonlines')
CONTAINERS = ('array', 'lines')


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
        self.path = storage.local(path)
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
            raise ValueError(sentence(error, f'{self.path} cannot be read')) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """The file's bytes, unpacked; `_raw` tells how far the file itself was read."""
        with self.path.open('rb') as self._raw:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if self._packed else self._raw

    def _advance(self, stream: BinaryIO) -> None:
        """Tells how far the file was read, and stops at one that unpacks without end."""
        at = self._raw.tell()
        self.done = at / self._size
        if self._packed and stream.tell() > UNPACKED * at + FREE:
            raise ValueError(
                f'{self.path} unpacks to more than {UNPACKED} times its size, as no text does: '
                'unpack it yourself if it is meant.'
            )

    def _lines(self) -> Iterator[tuple[str, Any]]:
        decoder = RowDecoder()
        with self._open() as stream:
            for number, line in enumerate(iter(lambda: stream.readline(ROW + 1), b''), 1):
                self._advance(stream)
                if len(line) > ROW:
                    while line and not line.endswith(b'\n'):
                        line = stream.readline(CHUNK)
                        self._advance(stream)
                    yield f'{self.path}:{number}', BadRow('too long', LONG)
                    continue
                line = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
                if line:
                    yield f'{self.path}:{number}', decoded(line, decoder)

    def _values(self) -> Iterator[tuple[str, Any]]:
        """The rows of JSON that goes over lines as it likes."""
        with (
            self._open() as raw,
            io.TextIOWrapper(raw, encoding='utf-8-sig', newline='') as stream,
        ):
            window = Window(self.path, stream, CHUNK)
            entries = {
                'JSON array': lambda: window.entries(']'),
                'JSON object': lambda: self._members(window),
                'JSON objects': window.texts,
            }
            try:
                for _ in entries[self._kind]():
                    where = f'{self.path}:{window.line()}'
                    yield where, window.value()
                    self._advance(raw)
                if window.next():
                    raise window.broken(window.at, 'text after the end of the array')
            except UnicodeDecodeError as error:
                raise self._not_utf8() from error

    def _members(self, window: Window) -> Iterator[None]:
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
                for batch in file.iter_batches(batch_size=BATCH):
                    for row in _listed(batch):
                        number += 1
                        self.done = number / total
                        yield f'{self.path}, row {number}', row
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise ValueError(
                f'{self.path}: the Parquet file is damaged after row {number}: copy it again.'
            ) from error


def _listed(batch: Any) -> list[Any]:
    """The rows of a Parquet batch, with a BadRow for each that Python cannot hold."""
    try:
        return batch.to_pylist()
    except ValueError as error:
        if len(batch) == 1:
            return [BadRow('broken field', f'a field cannot be read ({error}).')]
        return [row for at in range(len(batch)) for row in _listed(batch.slice(at, 1))]


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
