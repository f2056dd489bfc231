"""A text file that appears under its name whole, or not at all."""

import contextlib
import glob
import os
import pathlib
from types import TracebackType
from typing import Self


class WholeFile:
    """A UTF-8 file to write, which gets its name when the block ends without an error.

    What is written goes to a hidden file beside the target; it is gone if the block fails. A file
    of the target's name is replaced, missing directories are made.
    """

    def __init__(self, path: str | pathlib.Path) -> None:
        """
        Args:
            path: The target.
        Raises:
            ValueError: the file cannot be written, be it at the beginning of the block, in `write`,
                or at the end. Errors of what else the block does pass as they are.
        """
        self.path = pathlib.Path(path)
        self._partial = self.path.with_name(f'{_beginning(self.path)}{os.getpid()}')

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._partial.open('w', encoding='utf-8', newline='\n')
        except OSError as error:
            raise self._failed(error) from error
        return self

    def write(self, text: str) -> None:
        """Adds text."""
        try:
            self._stream.write(text)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
                self._partial.replace(self.path)
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            # Closing writes what is left, which a full disk refuses a second time.
            with contextlib.suppress(OSError):
                self._stream.close()
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> ValueError:
        reason = (error.strerror or str(error)).lower()
        return ValueError(f'{self.path} cannot be written ({reason}): write elsewhere.')


def remove_leftovers(path: pathlib.Path) -> None:
    """Removes what killed processes left of a file; for those who know that nobody is writing it.

    Args:
        path: The target.
    """
    for leftover in path.parent.glob(f'{glob.escape(_beginning(path))}*'):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _beginning(path: pathlib.Path) -> str:
    """Of the names of a file that is being written; the process's number follows."""
    return f'.{path.name}.partial-'
