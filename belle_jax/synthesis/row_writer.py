"""Writes files of rows that appear under their name only when they are complete."""

import contextlib
import json
import os
import pathlib
from types import TracebackType
from typing import Any, Self

LINES = ('.jsonl', '.ndjson', '.jsonlines')
CONTAINERS = ('array', 'lines')


class Writer:
    """Use it as a context manager; an exception inside leaves the target as it was."""

    def __init__(self, path: str | pathlib.Path, container: str = '', overwrite: bool = False):
        """Opens a file beside the target.

        Args:
            path: The target.
            container: 'array' or 'lines'; '' for what its ending says (.jsonl: lines).
            overwrite: Whether a file of that name may be replaced.
        Raises:
            ValueError: the container is unknown, or the file is there or cannot be written; so do
                `write` and the end of the block where the disk is full.
        """
        self.path = pathlib.Path(path)
        self.rows = 0
        if container and container not in CONTAINERS:
            raise ValueError(
                f'the container {container!r} is unknown: choose {" or ".join(CONTAINERS)}.'
            )
        self._lines = container == 'lines' or (not container and self.path.suffix in LINES)
        self._part = self.path.with_name(f'.{self.path.name}.partial-{os.getpid()}')
        if self.path.is_dir():
            raise ValueError(f'{self.path} is a directory: give the name of a file.')
        if self.path.exists() and not overwrite:
            raise ValueError(f'{self.path} is there already: give another name, or --overwrite.')
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._part.open('w', encoding='utf-8', newline='\n')
        except OSError as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def write(self, row: Any) -> None:
        """Adds a row."""
        text = json.dumps(row, ensure_ascii=False)
        if not text.isascii() and not _encodable(text):
            text = json.dumps(row)  # half a character stays the escape that it was
        between = '' if self._lines else ',\n' if self.rows else '[\n'
        try:
            self._stream.write(f'{between}{text}' + ('\n' if self._lines else ''))
        except OSError as error:
            raise self._failed(error) from error
        self.rows += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if not self._lines:
                    self._stream.write('\n]\n' if self.rows else '[]\n')
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
                os.replace(self._part, self.path)
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            # Closing writes what is left, which a full disk refuses a second time.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._part.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> ValueError:
        reason = (error.strerror or str(error)).lower()
        return ValueError(
            f'{self.path} cannot be written ({reason}): make room, or write elsewhere.'
        )


def _encodable(text: str) -> bool:
    try:
        text.encode('utf-8')
    except UnicodeEncodeError:
        return False
    return True
