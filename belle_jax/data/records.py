"""Rows as people publish them, read one by one and turned into conversations.

What a file is (JSON array, JSON lines, Parquet) and how its rows are laid out is found out from
its content and said in `Reader.describe`. A row that cannot be used stops the reading with its file
and line, or is skipped and counted by reason. `rows` knows the layouts.
"""

import collections
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from belle_jax.data.rows import BadRow, Record, layout, parse

BOM = b'\xef\xbb\xbf'
SPACE = re.compile(r'[ \t\r\n]*')
HUB_NAME = re.compile(r'[\w.-]+(/[\w.-]+)?(:[\w.-]+)?')


class Reader:
    """The records of one file or hub data set, in order.

    Iterate over it once. Afterwards, and partly while iterating, it knows:

        describe: the file, its container and its rows' layout, for people.
        rows: how many rows were read, skipped ones included.
        skipped: a Counter of the reasons for which rows were skipped.
        unanswered: how many conversations ended with a question, which was left out.
        done: the fraction of the source that was read.
    """

    def __init__(self, path: str, on_bad_row: str = 'error') -> None:
        """Looks at the source without reading it all.

        Args:
            path: A file, a directory that `datasets` can load, or a hub data set's name with an
                optional ':split' (train).
            on_bad_row: 'error' or 'skip'.
        Raises:
            ValueError: nothing is there, or it is empty or of no known kind.
        """
        self.path = path
        self.rows = 0
        self.unanswered = 0
        self.done = 0.0
        self.skipped: collections.Counter[str] = collections.Counter()
        self._strict = on_bad_row == 'error'
        self._layout: str | None = None
        self._dataset: Any = None
        self.container = self._container()

    @property
    def describe(self) -> str:
        """Such as 'train.json: JSON lines, alpaca rows, 1,000 rows'."""
        rows = self._layout or 'rows not read yet'
        return f'{self.path}: {self.container}, {rows}, {self.rows:,} rows'

    def digest(self) -> str:
        """A hash of the source's content, hex."""
        files = [pathlib.Path(self.path)]
        if self._dataset is not None:
            files = [pathlib.Path(entry['filename']) for entry in self._dataset.cache_files]
        state = hashlib.sha256()
        for file in files:
            with file.open('rb') as stream:
                state.update(hashlib.file_digest(stream, 'sha256').digest())
        return state.hexdigest()

    def __iter__(self) -> Iterator[Record]:
        source = {
            'JSON array': self._json_array,
            'JSON lines': self._json_lines,
            'Parquet': self._parquet,
            'hub data set': self._hub,
        }[self.container]
        used = 0
        for where, row in source():
            self.rows += 1
            try:
                if isinstance(row, BadRow):
                    raise row
                self._layout = self._layout or layout(row)
                record, unanswered = parse(row, self._layout)
            except BadRow as bad:
                if self._strict:
                    raise ValueError(
                        f'{where}: {bad} Mend it, or count and skip such rows with '
                        '--config.data.on_bad_row=skip.'
                    ) from bad
                self.skipped[bad.reason] += 1
                continue
            used += 1
            self.unanswered += unanswered
            yield record
        self.done = 1.0
        if not used:
            reasons = ', '.join(f'{reason} ({n})' for reason, n in self.skipped.items())
            raise ValueError(
                f'{self.path} ({self.container}) has no usable row: '
                + (f'all were skipped for {reasons}. ' if reasons else 'it holds none. ')
                + 'Give a file with rows in --config.data.path.'
            )

    def _container(self) -> str:
        file = pathlib.Path(self.path)
        if file.is_file():
            with file.open('rb') as stream:
                head = stream.read(1 << 16).removeprefix(BOM).lstrip()
            if not head:
                raise ValueError(
                    f'{self.path} is empty: give a file with rows in --config.data.path.'
                )
            if head.startswith(b'PAR1'):
                return 'Parquet'
            # Whatever is neither is read as lines, whose error names the first one.
            return 'JSON array' if head.startswith(b'[') else 'JSON lines'
        if not file.is_dir() and not HUB_NAME.fullmatch(self.path):
            raise ValueError(
                f'{self.path} is not there, and it is no name of a hub data set either: correct '
                '--config.data.path.'
            )
        self._dataset = self._load_hub()
        return 'hub data set'

    def _load_hub(self) -> Any:
        import datasets

        name, _, split = self.path.partition(':')
        try:
            return datasets.load_dataset(name, split=split or 'train')
        except Exception as error:  # network, names and formats each have classes of their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f'{self.path} is no file here, and as a hub data set it could not be loaded: '
                f'{reason} Check the name, or download it and give the file.'
            ) from error

    def _json_lines(self) -> Iterator[tuple[str, Any]]:
        file = pathlib.Path(self.path)
        size, read = max(1, file.stat().st_size), 0
        with file.open('rb') as stream:
            for number, line in enumerate(stream, 1):
                read += len(line)
                self.done = read / size
                line = (line.removeprefix(BOM) if number == 1 else line).strip()
                if line:
                    yield f'{self.path}:{number}', _decoded(line)

    def _json_array(self) -> Iterator[tuple[str, Any]]:
        """One entry after the other, so that an error has a line and memory holds one row."""
        data = pathlib.Path(self.path).read_bytes().removeprefix(BOM)
        try:
            text = data.decode('utf-8')
        except UnicodeDecodeError as error:
            line = data.count(b'\n', 0, error.start) + 1
            raise ValueError(
                f'{self.path}:{line}: the byte {data[error.start]:#04x} is not UTF-8: convert the '
                'file to UTF-8.'
            ) from error
        del data
        decoder = json.JSONDecoder()
        at = _after_space(text, text.index('[') + 1)
        counted, line = 0, 1
        more = text[at : at + 1] != ']'
        while more:
            line += text.count('\n', counted, at)
            counted, self.done = at, at / len(text)
            # Where a broken entry ends nobody can say, so it is an error even when skipping.
            try:
                row, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                raise self._broken(text, error.pos, error.msg) from error
            except RecursionError as error:
                raise self._broken(text, at, 'it is nested too deeply') from error
            yield f'{self.path}:{line}', row
            at = _after_space(text, at)
            more = text[at : at + 1] == ','
            if more:
                at = _after_space(text, at + 1)
            elif text[at : at + 1] != ']':
                raise self._broken(text, at, 'no comma between two entries')
        at = _after_space(text, at + 1)
        if at < len(text):
            raise self._broken(text, at, 'text after the end of the array')

    def _broken(self, text: str, at: int, reason: str) -> ValueError:
        end = len(text.rstrip())
        what = 'the file ends inside the array' if at >= end else f'broken JSON ({reason})'
        line = text.count('\n', 0, min(at, end)) + 1
        return ValueError(f'{self.path}:{line}: {what}: restore or mend the file.')

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

    def _hub(self) -> Iterator[tuple[str, Any]]:
        total = max(1, len(self._dataset))
        for number, row in enumerate(self._dataset, 1):
            self.done = number / total
            yield f'{self.path}, row {number}', row


def _after_space(text: str, at: int) -> int:
    return SPACE.match(text, at).end()  # pyright: ignore[reportOptionalMemberAccess]


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
