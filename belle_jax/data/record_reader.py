"""Rows as people publish them, read one by one and turned into conversations.

What a file is and how its rows are laid out is found out from its content and said in
`RecordReader.describe`. A row that cannot be used stops the reading with its file and line, or is
skipped and counted by reason; what no layout reads is counted by name. `records` knows the layouts.
"""

import collections
import hashlib
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from belle_jax import storage
from belle_jax.data.records import BadRow, Record, layout, parse
from belle_jax.data.row_file import RowFile

NAMED = 100  # fields that no layout reads and that are told by name; more are told together
HUB_NAME = re.compile(r'[\w.-]+(/[\w.-]+)?(:[\w.-]+)?')
T = TypeVar('T')


class RecordReader:
    """The records of one file or hub data set, in order.

    Iterate over it once. Afterwards, and partly while iterating, it knows:

        describe: the file, its container and its rows' layout, for people.
        rows: how many rows were read, skipped ones included.
        skipped: a Counter of the reasons for which rows were skipped.
        unanswered: how many conversations ended with a question, which was left out.
        unread: a Counter of the fields that say something and that the layout does not read.
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
        self.path, self.file = path, storage.local(path)
        self.rows = 0
        self.unanswered = 0
        self.done = 0.0
        self.skipped: collections.Counter[str] = collections.Counter()
        self.unread: collections.Counter[str] = collections.Counter()
        self._strict = on_bad_row == 'error'
        self._layout: str | None = None
        self._dataset: Any = None
        self._file = self._open()
        self.container = self._file.container if self._file else 'hub data set'

    @property
    def describe(self) -> str:
        """Such as 'train.json: JSON lines, alpaca rows, 1,000 rows'."""
        return f'{self.path}: {self.found}'

    @property
    def found(self) -> str:
        """What `describe` says of the content, which other files may share."""
        rows = self._layout or 'rows not read yet'
        return f'{self.container}, {rows}, {self.rows:,} rows'

    def digest(self) -> str:
        """A hash of the source's content, hex."""
        files = [self.file]
        if self._dataset is not None:
            files = [pathlib.Path(entry['filename']) for entry in self._dataset.cache_files]
        state = hashlib.sha256()
        for file in files:
            with file.open('rb') as stream:
                state.update(hashlib.file_digest(stream, 'sha256').digest())
        return state.hexdigest()

    def __iter__(self) -> Iterator[Record]:
        return (record for record, _ in self.written(lambda record: record))

    def written(self, write: Callable[[Record], T]) -> Iterator[tuple[Record, T]]:
        """The records with what is written of each.

        Args:
            write: Its ValueError makes a row one that cannot be used, as a template's refusal does.
        """
        used = 0
        for where, row in self._rows():
            self.rows += 1
            try:
                if isinstance(row, BadRow):
                    raise row
                self._layout = self._layout or layout(row)
                record, unanswered = parse(row, self._layout)
                made = self._write(record, write)
            except BadRow as bad:
                if self._strict:
                    raise bad.refused(where, '--config.data.on_bad_row') from bad
                self.skipped[bad.reason] += 1
                continue
            used += 1
            self.unanswered += unanswered
            for field in record.unread:
                self._count(field)
            yield record, made
        self.done = 1.0
        if not used:
            reasons = ', '.join(f'{reason} ({n})' for reason, n in self.skipped.items())
            raise ValueError(
                f'{self.path} ({self.container}) has no usable row: '
                + (f'all were skipped for {reasons}. ' if reasons else 'it holds none. ')
                + 'Give a file with rows that can be read.'
            )

    @staticmethod
    def _write(record: Record, write: Callable[[Record], T]) -> T:
        try:
            return write(record)
        except ValueError as error:
            raise BadRow('refused by the template', str(error)) from error

    def _count(self, field: str) -> None:
        """Counts a field that is not read; the file chose its name, so it is cut and cleaned."""
        if field not in self.unread:
            field = ''.join(c if c.isprintable() else '?' for c in field[:60])
            if field not in self.unread and len(self.unread) >= NAMED:
                field = '(others)'
        self.unread[field] += 1

    def _open(self) -> RowFile | None:
        """The file; None for a hub data set, which is loaded."""
        if self.file.is_file():
            return RowFile(self.file)
        if not self.file.is_dir() and not HUB_NAME.fullmatch(self.path):
            raise ValueError(
                f'{self.path} is not there, and it is not the name of a hub data set either: '
                'correct the path (in --config.data.path a comma of a path is written \\,).'
            )
        self._dataset = self._load_hub()
        return None

    def _load_hub(self) -> Any:
        import datasets

        name, _, split = self.path.partition(':')
        try:
            return datasets.load_dataset(name, split=split or 'train')
        except Exception as error:  # network, names and formats each have classes of their own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f'{self.path} is not a file here, and as a hub data set it could not be loaded: '
                f'{reason} Check the name, or download it and give the file.'
            ) from error

    def _rows(self) -> Iterator[tuple[str, Any]]:
        if self._file is None:
            for number, row in enumerate(self._dataset, 1):
                self.done = number / len(self._dataset)
                yield f'{self.path}, row {number}', row
        else:
            for where, row in self._file:
                self.done = self._file.done
                yield where, row
