"""Files and directories that appear whole: what a program writes is there completely or not at all.

What is being written has a hidden name beside its place, `.NAME.partial-PROCESS`, and gets its own
when it is complete and on the disk. Errors and Ctrl-C leave nothing; what a kill leaves under such
a name, `remove_leftovers` removes.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Python's objects take up to 25 times the text: 0.8 GB. The largest file of settings that is read,
# Llama 3's tokenizer.json, has half of it, and none nests beyond ten.
JSON_MAX, JSON_DEPTH = 1 << 25, 64


def without_dots(path: str | Path) -> Path:
    """The same place without `..` on the way, which TensorStore refuses in a path."""
    path = Path(path)
    return path.resolve() if '..' in path.parts else path


# --- files ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name when the block ends without an error.

    Args:
        path: The target, in a directory that exists; a file of that name is replaced.
    Yields:
        The open file.
    """
    partial = _partial(path)
    file = partial.open('wb')
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())
        file.close()
        partial.replace(path)
    finally:
        # Closing writes what is left, which a full disk refuses a second time.
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


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
            reason = (error.strerror or str(error)).lower()
            raise ValueError(
                f'{self.path} cannot be written ({reason}): write elsewhere.'
            ) from error


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file; a kill leaves the old one or the new one."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, values: Any) -> None:
    """Writes values as JSON, for people to read too; a kill leaves the old file or the new one."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + '\n')


def read_json(path: Path, remedy: str = 'copy it again', kind: type = dict) -> Any:
    """JSON from a file.

    Args:
        path: The file; it may begin with a byte order mark.
        remedy: What the reader of the message is to do.
        kind: dict or list: what it must hold.
    Raises:
        ValueError: it is missing or larger than `JSON_MAX`, or as in `parse_json`; it is named.
    """
    try:
        with path.open('rb') as file:
            content = file.read(JSON_MAX + 1)
    except FileNotFoundError as error:
        raise ValueError(f'{path} is missing: {remedy}.') from error
    return parse_json(content, path, remedy, kind)


def parse_json(
    content: bytes | str, place: object, remedy: str, kind: type = dict, hook: Any = None
) -> Any:
    """JSON from elsewhere, checked as in `read_json`: every reader of settings comes here.

    Args:
        content: UTF-8, or text.
        place: How messages name it.
        remedy: What the reader of the message is to do.
        kind: dict or list: what it must be.
        hook: `object_pairs_hook` of the standard library.
    Raises:
        ValueError: it is too large, is not JSON, is nested too deeply, or is of another kind.
    """
    try:
        if len(content) > JSON_MAX:
            raise ValueError(f'it has more than {JSON_MAX:,} bytes')
        text = content.decode('utf-8-sig') if isinstance(content, bytes) else content
        values = json.loads(text, object_pairs_hook=hook)
        level = [values]
        for _ in range(JSON_DEPTH):
            nodes = (node.values() if isinstance(node, dict) else node for node in level)
            level = [v for inside in nodes for v in inside if isinstance(v, dict | list)]
        if level:
            raise RecursionError
    except RecursionError as error:
        raise ValueError(f'{place} is not readable JSON (nested too deeply): {remedy}.') from error
    except ValueError as error:
        raise ValueError(f'{place} is not readable JSON ({error}): {remedy}.') from error
    if not isinstance(values, kind):
        name = {dict: 'object', list: 'list'}[kind]
        raise ValueError(f'{place} does not hold a JSON {name}: {remedy}.')
    return values


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
        OSError: no room, no permission, or the disk is full; nothing is left behind.
    """
    target = Path(target)
    require_new(target, flag)
    require_room(target, size, flag)
    partial = _partial(target.absolute())
    planned = f'{gb(size)} were to be written, and ' if size else ''
    full = f'{planned}nothing is left of what was. Make room, or give a {flag} on another disk.'
    try:
        with explaining(partial, f'{flag}={target}', full):
            partial.mkdir(parents=True)
            yield partial
            partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def whole_directory(target: Path) -> Iterator[Path]:
    """A directory of files to fill, without folders, for a place where nobody else is writing.

    What killed processes left of it is removed first. If the target is there, files of the same
    names are replaced in it, one by one; if nothing was written, nothing appears.

    Yields:
        A hidden directory beside the target; it is removed when the block fails.
    """
    remove_leftovers(target.parent, target.name.__eq__)
    partial = _partial(target)
    try:
        partial.mkdir(parents=True)
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
            f'{flag}={target} needs {gb(size)} and its disk has {gb(free)} free: make room, or '
            'give a directory on another disk.'
        )


def gb(size: int) -> str:
    """A number of bytes for people."""
    return f'{size / 1e9:,.2f} GB'


# --- what others do, and what they left -----------------------------------------------------------


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
        named = error.filename if isinstance(error.filename, str | bytes) else str(folder)
        file, folder = Path(os.fsdecode(named)).absolute(), folder.absolute()
        ours = file.is_relative_to(folder) or folder.is_relative_to(file)
        if error.errno in REFUSED and ours:
            raise OSError(
                f'{name} cannot be written ({error.strerror}): give a directory where you may '
                'write.'
            ) from error
        if error.errno in FULL:
            raise OSError(f'the disk of {name} is full: {full}') from error
        raise


@contextlib.contextmanager
def locked(path: Path, busy: Exception | None = None) -> Iterator[None]:
    """Keeps other processes out while the block runs; the lock ends with the process, too.

    Where the file system has no locks, as some on a network, the block runs all the same.

    Args:
        path: A file, made if need be, or a directory.
        busy: What is raised if another process holds the lock; None waits for it.
    """
    how = os.O_RDONLY if path.is_dir() else os.O_CREAT | os.O_RDWR
    descriptor = os.open(path, how, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except OSError as error:
            if busy and isinstance(error, BlockingIOError):
                raise busy from error
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, is_ours: Callable[[str], bool]) -> None:
    """Removes what killed processes left half written; for those who know that nobody writes it.

    Args:
        folder: The directory where it lies.
        is_ours: Whether a name, as it would have been, is one to remove.
    """
    for path in folder.glob('.*.partial*'):
        found = re.fullmatch(r'\.(.+)\.partial(-\d+)?', path.name, re.DOTALL)
        if found and is_ours(found[1]):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f'.{path.name}.partial-{os.getpid()}')
