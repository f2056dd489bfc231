"""Places and room on disks, and sentences for what the system refuses: what, where, what to do."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Given = str | Path | None | Iterable[str | Path]

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT)
WRITING = (*FULL, errno.EFBIG, errno.EROFS)  # reading gives none of these
REMEDIES = {
    **dict.fromkeys(REFUSED, 'get the permission, or name another place'),
    **dict.fromkeys(FULL, 'make room, or name a place on another disk'),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), 'raise the limit of open files (ulimit -n)'),
    errno.EFBIG: 'name a place that takes larger files, or raise their limit (ulimit -f)',
    errno.EIO: 'the disk or the network has a fault: look after it, or name another place',
    errno.ENOMEM: 'end other programs, or take a machine with more memory',
    **dict.fromkeys((errno.EADDRINUSE, errno.EADDRNOTAVAIL), 'give another address or port'),
    **dict.fromkeys(
        (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
        'look at the name, or give another',
    ),
}


def sentence(error: OSError, what: str = '', remedy: str = '') -> str:
    """What the system refuses, in a sentence.

    Args:
        error: One that already has a sentence, and no number of the system, keeps it.
        what: Such as 'out.json cannot be written'; by default the error's own path cannot be used.
        remedy: What to do; by default what the reason asks for.
    """
    if error.errno is None:
        return str(error)
    names = [n for n in (error.filename2, error.filename) if isinstance(n, str | bytes)]
    name = os.fsdecode(names[0]) if names else 'a file or connection'
    what = what or f'{name} cannot be {"written" if error.errno in WRITING else "used"}'
    reason = (error.strerror or str(error)).lower()
    remedy = remedy or REMEDIES.get(error.errno, 'mend that and start the same command again')
    return f'{what} ({reason}): {remedy}.'


@contextlib.contextmanager
def explaining(folder: Path, name: str, full: str) -> Iterator[None]:
    """Makes one sentence of it where the disk refuses what the block writes to a directory.

    Args:
        folder: The directory; errors that name files elsewhere pass as they are.
        name: How the sentence calls it, such as '--target=out'.
        full: What a full disk leaves, and what to do.
    Raises:
        OSError: the disk is full, or may not be written.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str | bytes):
            file, folder = Path(os.fsdecode(error.filename)).absolute(), folder.absolute()
            # What cannot be made above the folder is not there; a source that cannot be read is.
            ours = file.is_relative_to(folder)
            ours = ours or (folder.is_relative_to(file) and not file.exists())
        else:
            ours = error.errno in WRITING
        if not ours or error.errno not in REMEDIES:
            raise
        if error.errno in FULL:
            raise OSError(f'the disk of {name} is full: {full}') from error
        remedy = 'give a directory where you may write' if error.errno in REFUSED else ''
        raise OSError(sentence(error, f'{name} cannot be written', remedy)) from error


def require_room(target: Path, size: int, flag: str = '--target') -> None:
    """Finds out before the work that it cannot be finished.

    Args:
        target: A file or directory to write, which need not exist.
        size: Bytes.
        flag: How messages name the target.
    Raises:
        OSError: there is not enough room.
    """
    parent = target.absolute()
    while not parent.exists():
        parent = parent.parent
    if (free := shutil.disk_usage(parent).free) < size:
        raise OSError(
            f'{flag}={target} needs {amount(size)} and its disk has {amount(free)} free: make '
            'room, or give a directory on another disk.'
        )


def amount(size: int) -> str:
    """A number of bytes for people: '84.00 GB', '12 bytes'."""
    for unit, name in ((1e9, 'GB'), (1e6, 'MB'), (1e3, 'kB')):
        if size >= unit:
            return f'{size / unit:,.2f} {name}'
    return f'{size} bytes'


def distinct(reads: Mapping[str, Given], writes: Mapping[str, Given]) -> None:
    """Refuses a place that a command would write and also read, or write as two things.

    Worth asking before anything is done. Two names are one place where links, `.` and `..` lead
    to the same file; what is read twice harms nobody.

    Args:
        reads: What is read: for each flag a path, or several; empty ones are passed over.
        writes: What is written, likewise, files that appear beside a flag's own included.
    Raises:
        ValueError: two are one place; it is named with both flags.
    """
    taken = [(flag, path, 'reads') for flag, path in _listed(reads)]
    for flag, path in _listed(writes):
        for other, there, does in taken:
            if _same(path, there):
                raise ValueError(
                    f'{path} (of {flag}) is what {other} {does}, and would be overwritten: give '
                    f'{flag} another name.'
                )
        taken.append((flag, path, 'writes'))


def _listed(given: Mapping[str, Given]) -> list[tuple[str, Path]]:
    found = []
    for flag, paths in given.items():
        several = [paths or ''] if isinstance(paths, str | Path | None) else paths
        found += [(flag, Path(path)) for path in several if path]
    return found


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one of them is not there yet
        return os.path.realpath(one) == os.path.realpath(other)
