"""Directories that appear whole: what a conversion writes is there completely, or not at all."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def new_directory(target: str | Path, size: int, flag: str = '--target') -> Iterator[Path]:
    """A directory to fill, which gets its name when the block ends without an error.

    Args:
        target: A directory that does not exist yet, or is empty.
        size: Bytes that will be written at least, 0 where that is not known: their room is looked
            for before the work.
        flag: How messages name the target.
    Yields:
        A hidden directory beside the target; it is removed when the block fails.
    Raises:
        ValueError: the target is a file, or not empty.
        OSError: no room, no permission, or the disk is full; nothing is left behind.
    """
    target = Path(target)
    require_new(target, flag)
    _check_room(target, size, flag)
    partial = target.absolute().with_name(f'.{target.name}.partial-{os.getpid()}')
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(target)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OSError(
                f'{flag}={target} cannot be written ({error.strerror}): give a directory where '
                'you may write.'
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        planned = f'{gb(size)} were to be written, and ' if size else ''
        raise OSError(
            f'the disk of {target} is full: {planned}nothing is left of what was. Make room, or '
            f'give a {flag} on another disk.'
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(target: str | Path, flag: str = '--target') -> None:
    """Refuses a target that would be overwritten; worth asking before long work.

    Raises:
        ValueError: it is a file, or a directory that is not empty.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f'{flag}={target} is there already and not empty: nothing is overwritten. '
            'Give a new directory.'
        )


def _check_room(target: Path, size: int, flag: str) -> None:
    """Finds out before the work that it cannot be finished."""
    parent = target.absolute()
    while not parent.exists():
        parent = parent.parent
    if (free := shutil.disk_usage(parent).free) < size:
        raise OSError(
            f'{flag}={target} needs {gb(size)} and its disk has {gb(free)} free: make room, or '
            'give a directory on another disk.'
        )


def gb(size: int) -> str:
    """A number of bytes for people."""
    return f'{size / 1e9:,.2f} GB'
