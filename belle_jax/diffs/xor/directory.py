"""Whole directories of XOR diffs, made or restored; work that was interrupted goes on.

Every file that is complete stands in the target's manifest, and is not done again.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from belle_jax.diffs.xor import checksums, file_pool
from belle_jax.diffs.xor import sources as xor_sources
from belle_jax.diffs.xor import stream as xor
from belle_jax.diffs.xor import target as xor_target
from belle_jax.diffs.xor.blocks import Tell
from belle_jax.diffs.xor.checksums import MANIFEST, Entry, shown
from belle_jax.diffs.xor.stream import Encrypted, Key
from belle_jax.files import require_room

STAYS = re.compile(
    r'\..*|(readme|licen[cs]e|notice|use_policy).*|.*\.(md|enc)|' + re.escape(MANIFEST),
    re.IGNORECASE | re.DOTALL,
)
"""What is passed over when a directory is encrypted: hidden files, terms, descriptions."""

T = TypeVar('T', Path, Encrypted)


def decrypt(
    source: str | Path,
    key: str | Path,
    target: str | Path,
    md5: str | Path = '',
    threads: int = 0,
    check_kind: bool = True,
) -> Path:
    """Restores files from their XOR diffs.

    Args:
        source: A file `<name>.<64 hex>.enc`, or a directory of them; its other files are named.
        key: The original that they were made with.
        target: Directory for the files; what is complete there is not done again.
        md5: A published list to check against, of the encrypted files or of the restored ones.
        threads: Files at a time; 0: one for each core.
        check_kind: Whether files must begin and end as their names say, which finds a wrong key at
            once. The SHA-256 decides in any case.
    Returns:
        The target's manifest.
    Raises:
        ValueError: a file, the key or the list is wrong; no wrong file gets its name.
        OSError: the disk is full, or the target cannot be written.
    """
    source, target = xor_sources.apart(source, target)
    files = xor_sources.files_of(source)
    tasks = xor_sources.encrypted_of(source, files)
    xor_sources.pass_over(source, [e.path for e in tasks.values()])
    xor_sources.require_other([e.path for e in tasks.values()], key)
    known = checksums.read_manifest(target)

    def is_complete(file: Encrypted) -> bool:
        path, entry = target / file.name, known.get(file.name)
        right = entry and (entry.sha256, entry.size) == (file.sha256, file.size)
        return bool(right) and path.is_file() and path.stat().st_size == file.size

    left = [file for file in tasks.values() if not is_complete(file)]
    new = [file for file in left if not os.path.lexists(target / file.name)]
    require_room(target, sum(file.size for file in new))
    with Key(key) as stream:
        if check_kind:
            xor_sources.require_right_key(left, stream)
        listed = xor_sources.compare_sources(md5, source, files, tasks.__contains__, threads)

        def restore(file: Encrypted, tell: Tell) -> tuple[str, Entry]:
            path = target / file.name
            if not os.path.lexists(path):
                return file.name, xor.decrypt(file, stream, path, tell)
            entry = checksums.measure(path, tell, file.path.name)
            if entry.sha256 != file.sha256:
                raise ValueError(
                    f'{shown(path)} is there already and is something else: remove it, or give '
                    'another --target.'
                )
            return file.name, entry

        _work(left, restore, target, known, tasks.__contains__, 'Decrypting', threads)
    print(f'Files restored: {len(new)}, there already: {len(tasks) - len(new)}.')
    made = {name: e.md5 for name, e in known.items() if (target / name).is_file()}
    xor_sources.fail(checksums.compare(listed, made, md5))
    return target / MANIFEST


def encrypt(
    source: str | Path,
    key: str | Path,
    target: str | Path,
    md5: str | Path = '',
    threads: int = 0,
) -> Path:
    """Makes XOR diffs as BELLE published them, which whoever has the key can restore.

    Args:
        source: A file, or a directory; its hidden files, README and licence are named and stay.
        key: The original.
        target: Directory for the files; what is complete there is not done again.
        md5: A list to check against, of the files or of the encrypted ones.
        threads: Files at a time; 0: one for each core.
    Returns:
        The target's manifest.
    Raises:
        ValueError: a file, the key or the list is wrong.
        OSError: the disk is full, or the target cannot be written.
    """
    source, target = xor_sources.apart(source, target)
    files = xor_sources.files_of(source)
    tasks = {f.name: f for f in files if f == source or not STAYS.fullmatch(f.name)}
    xor_sources.pass_over(source, tasks.values())
    if not tasks:
        raise ValueError(f'--source={source} holds no file to encrypt.')
    xor_sources.require_other(tasks.values(), key)
    known = checksums.read_manifest(target)
    there: list[str] = []

    def is_ours(name: str) -> bool:
        return bool(parts := xor.split_name(name)) and parts[0] in tasks

    with Key(key) as stream:
        for file in tasks.values():
            xor_sources.require_plain(file)
        begun = {parts[0] for name in known if (parts := xor.split_name(name))}
        size = sum(f.stat().st_size for name, f in tasks.items() if name not in begun)
        require_room(target, size)
        listed = xor_sources.compare_sources(md5, source, files, is_ours, threads)

        def make(file: Path, tell: Tell) -> tuple[str, Entry]:
            sha256 = xor.digest(file, tell)
            path = target / f'{file.name}.{sha256}.enc'
            if not os.path.lexists(path):
                return path.name, xor.encrypt(file, sha256, stream, path, tell)
            # Its name says nothing of its key: an earlier run may have had another.
            if not xor.is_made_from(path, file, stream):
                raise ValueError(
                    f'{shown(path)} is there already, made with another key or damaged: remove it.'
                )
            there.append(path.name)
            entry = known.get(path.name)
            if entry and entry.size == path.stat().st_size:
                return path.name, entry
            xor.decrypt(xor.examine(path), stream, None, tell)
            return path.name, checksums.measure(path, tell, file.name)

        _work(list(tasks.values()), make, target, known, is_ours, 'Encrypting', threads)
    print(f'Files encrypted: {len(tasks) - len(there)}, there already: {len(there)}.')
    made = {name: e.md5 for name, e in known.items() if (target / name).is_file()}
    xor_sources.fail(checksums.compare(listed, made, md5))
    return target / MANIFEST


def _work(
    tasks: Sequence[T],
    work: Callable[[T, Tell], tuple[str, Entry]],
    target: Path,
    known: dict[str, Entry],
    is_ours: Callable[[str], bool],
    what: str,
    threads: int,
) -> None:
    """Makes files, largest first, and enters each into the manifest when it is complete."""

    def size(task: Path | Encrypted) -> int:
        # An encrypted file is read once, a plain one twice.
        return task.size if isinstance(task, Encrypted) else 2 * task.stat().st_size

    def finish(_: object, made: tuple[str, Entry]) -> None:
        known[made[0]] = made[1]
        checksums.write_manifest(target, known)

    with xor_target.opened(target, is_ours):
        tasks = sorted(tasks, key=lambda t: -size(t))
        total = sum(map(size, tasks))
        xor_sources.fail(file_pool.each(tasks, work, finish, what, total, threads))
