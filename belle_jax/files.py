"""Files and directories that appear whole and go away whole, whatever ends the program.

What is being written lies beside its place as `.NAME.partial` and gets its own name when it is
complete and on the disk; what is being removed is first renamed to `.NAME.deleted`. A writer has a
lock on its partial as long as it lives: whoever comes next knows by it whether another process is
at work or was killed, and removes what the dead left. Where a file system has no locks, whoever
comes last is believed; on a network's, locks on directories may hold on one machine alone.
"""

import contextlib
import fcntl
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from belle_jax.disk import WRITING, amount, explaining, require_room, sentence


def without_dots(path: str | Path) -> Path:
    """The same place without `..` on the way, which TensorStore refuses in a path."""
    path = Path(path)
    return path.resolve() if '..' in path.parts else path


# --- files ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path, wait: bool = False) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name when the block ends without an error.

    Args:
        path: The target, in a directory that exists; a file of that name is replaced.
        wait: For another process that writes it, instead of an OSError that says so.
    Yields:
        The open file.
    """
    partial = _hidden(path, 'partial')
    with _held(partial, False, None if wait else _busy(path)) as held:
        os.truncate(held, 0)
        file = os.fdopen(held, 'wb', closefd=False)
        try:
            yield file
            file.flush()
            os.fsync(held)
            partial.replace(path)
        except OSError as error:
            if error.filename is None and error.errno in WRITING:
                error.filename = str(path)  # the system names no file that it was writing
            raise
        finally:
            # Closing writes what is left, which a full disk refuses a second time.
            with contextlib.suppress(OSError):
                file.close()
            if _is(held, partial):
                partial.unlink()


class WholeText:
    """A UTF-8 file to write piece by piece, whole like `whole_file`; missing directories are made.

    What the disk refuses is a ValueError that names the file, be it at the beginning of the block,
    in `write`, or at the end. Errors of what else the block does pass as they are.
    """

    def __init__(self, path: str | Path) -> None:
        """Takes the target."""
        self.path = Path(path)
        self._within = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._named():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._within.enter_context(whole_file(self.path))
        return self

    def write(self, text: str) -> None:
        """Adds text."""
        with self._named():
            self._file.write(text.encode())

    def __exit__(self, *error: Any) -> None:
        with self._named() if error[0] is None else contextlib.nullcontext():
            self._within.__exit__(*error)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(sentence(error, f'{self.path} cannot be written')) from error


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file; a kill leaves the old one or the new one."""
    with whole_file(path, wait=True) as file:
        file.write(text.encode())


def checksum(path: Path) -> int:
    """CRC-32 of a file: it finds every flipped bit, and reads 1 to 3 GB/s on one core."""
    crc = 0
    with path.open('rb', buffering=0) as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


# --- directories ----------------------------------------------------------------------------------


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
        OSError: no room, no permission, the disk is full, or another process is writing the
            target; nothing is left behind.
    """
    target, name = Path(target), f'{flag}={target}'
    require_new(target, flag)
    planned = f'{amount(size)} were to be written, and ' if size else ''
    full = f'{planned}nothing is left of what was. Make room, or give a {flag} on another disk.'
    with (
        explaining(_hidden(target.absolute(), 'partial'), name, full),
        _filled(target.absolute(), name) as partial,
    ):
        require_new(target, flag)  # it may have come while we looked
        require_room(target, size, flag)
        yield partial
        partial.replace(target)


@contextlib.contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A directory of files to fill, without folders.

    If the target is there, files of the same names are replaced in it, one by one; if nothing was
    written, nothing appears.

    Yields:
        A hidden directory beside the target; it is removed when the block fails.
    """
    with _filled(target) as partial:
        yield partial
        files = list(partial.iterdir())
        for file in files:
            with file.open('rb') as written:
                os.fsync(written.fileno())
        if target.is_dir():
            for file in files:
                file.replace(target / file.name)
        elif files:
            partial.rename(target)


@contextlib.contextmanager
def _filled(target: Path, name: str = '') -> Iterator[Path]:
    """The empty directory `.NAME.partial`, locked; what is not renamed in the block goes again."""
    partial = _hidden(target, 'partial')
    with _held(partial, True, _busy(name or target)) as held:
        for left in partial.iterdir():
            _delete(left)
        try:
            yield partial
        finally:
            if _is(held, partial):
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


# --- going away, locks, and what the dead left ----------------------------------------------------


def remove(path: Path) -> None:
    """Removes a file or directory, if it is there; a kill leaves all of its name or nothing."""
    deleted = _hidden(path, 'deleted')
    _delete(deleted)
    with contextlib.suppress(FileNotFoundError):
        path.rename(deleted)
    _delete(deleted)


def sweep(folder: Path, is_ours: Callable[[str], bool] = lambda name: True) -> None:
    """Removes from a folder what killed processes left half written or half removed.

    Args:
        folder: Where it lies; what living processes are writing there stays.
        is_ours: Whether a name, as it would have been, is one to remove.
    """
    for path in [*folder.glob('.*.partial'), *folder.glob('.*.deleted')]:
        if is_ours(path.name[1:].rpartition('.')[0]):
            with contextlib.suppress(OSError), _held(path, path.is_dir(), _busy(path)):
                _delete(path)


@contextlib.contextmanager
def locked(path: Path, busy: Exception | None = None) -> Iterator[None]:
    """Keeps other processes out while the block runs; the lock ends with the process, too.

    Args:
        path: A directory, or a file, made if need be. One that is called `…lock` is there for this
            alone, and goes with the lock.
        busy: What is raised if another process holds the lock; None waits for it.
    """
    with _held(path, path.is_dir(), busy):
        try:
            yield
        finally:
            if path.name.endswith('.lock'):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(path: Path, is_directory: bool, busy: Exception | None) -> Iterator[int]:
    """Opens a file or directory, made if need be, and locks it; yields the descriptor."""
    while True:
        if is_directory:
            path.mkdir(parents=True, exist_ok=True)
        how = os.O_RDONLY if is_directory else os.O_CREAT | os.O_RDWR
        descriptor = os.open(path, how, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            os.close(descriptor)
            raise busy or AssertionError('it waits') from None
        except OSError:  # no locks here
            break
        if _is(descriptor, path):
            break
        os.close(descriptor)  # who had it has renamed or removed it meanwhile
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to what was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _busy(name: object) -> OSError:
    return OSError(f'another process is writing {name}: wait until it has ended, or give another.')


def _delete(path: Path) -> None:
    """Removes a file or directory that another may be removing, too."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _hidden(path: Path, state: str) -> Path:
    return path.with_name(f'.{path.name}.{state}')
