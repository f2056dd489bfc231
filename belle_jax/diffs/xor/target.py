"""The directory that XOR diffs are written to: one writer at a time, nothing half written in it."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from belle_jax.diffs.xor import checksums
from belle_jax.files import gb

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def opened(directory: Path, is_ours: Callable[[str], bool]) -> Iterator[None]:
    """Makes a directory, or goes on with one, and keeps other writers out of it.

    Args:
        directory: Made if need be, and removed again if it is still empty in the end.
        is_ours: Whether this work makes a file of that name: what a run that was killed has left
            unfinished of it is removed.
    Raises:
        OSError: it cannot be written, another process is at work in it, or the disk is full.
    """
    new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            for path in directory.iterdir():
                left = re.fullmatch(r'\.(.+)\.partial-\d+', path.name, re.DOTALL)
                if left and (is_ours(left[1]) or left[1] == checksums.MANIFEST):
                    path.unlink()
            yield
    except OSError as error:
        raise OSError(_sentence(error, directory) or str(error)) from error
    finally:
        if new:
            with contextlib.suppress(OSError):
                directory.rmdir()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Locks a directory; the lock ends with the process, however that ends."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise OSError(
            f'another process is writing to --target={directory}: wait until it is done.'
        ) from error
    except OSError:  # some network file systems lock no directories
        pass
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _sentence(error: OSError, directory: Path) -> str:
    """What an error of the operating system means for a person; '' where it says so itself."""
    file = Path(os.fsdecode(error.filename)) if error.filename else directory
    ours = file.is_relative_to(directory) or directory.is_relative_to(file)
    if error.errno in REFUSED and ours:
        return (
            f'--target={directory} cannot be written ({error.strerror}): give a directory where '
            'you may write.'
        )
    if error.errno in FULL:
        return (
            f'the disk of --target={directory} is full: the files that were complete are kept, '
            'and the same command goes on from there. Make room first.'
        )
    return ''


def require_room(directory: Path, size: int) -> None:
    """Finds out before the work that it cannot be finished.

    Raises:
        OSError: there is not enough room.
    """
    parent = directory.absolute()
    while not parent.exists():
        parent = parent.parent
    if (free := shutil.disk_usage(parent).free) < size:
        raise OSError(
            f'--target={directory} needs {gb(size)} and its disk has {gb(free)} free: make room, '
            'or give a directory on another disk.'
        )
