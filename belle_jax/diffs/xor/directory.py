"""Whole directories of XOR diffs, made, restored or verified; what was interrupted goes on.

Every file that is complete stands in the target's manifest, and is not done again.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from belle_jax.diffs.xor import checksums, cipher, file_pool, sources
from belle_jax.diffs.xor.blocks import Tell
from belle_jax.diffs.xor.checksums import MANIFEST, Checksums, shown
from belle_jax.diffs.xor.cipher import Encrypted, Key
from belle_jax.diffs.xor.file_pool import Made
from belle_jax.disk import distinct, explaining, require_room
from belle_jax.files import locked, sweep

STAYS = re.compile(
    r'\..*|(readme|licen[cs]e|notice|use_policy).*|.*\.(md|enc)|' + re.escape(MANIFEST),
    re.IGNORECASE | re.DOTALL,
)
"""What is passed over when a directory is encrypted: hidden files, terms, descriptions."""

FULL = (
    'the files that were complete are kept, and the same command goes on from there. Make room '
    'first.'
)


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
    source, target = sources.places(source, target)
    files = sources.files_of(source)
    tasks = sources.encrypted_of(source, files)
    sources.pass_over(source, [e.path for e in tasks.values()])
    sources.require_other([e.path for e in tasks.values()], key)
    written = [target, *(target / name for name in (MANIFEST, *tasks))]
    distinct({'--source': source, '--key': key, '--md5': md5}, {'--target': written})
    known = checksums.read_manifest(target)
    left = [e for e in tasks.values() if not _is_complete(e, target / e.name, known.get(e.name))]
    new = [e for e in left if not os.path.lexists(target / e.name)]
    _look_for_room(target, sum(e.size for e in new), tasks.__contains__)
    with Key(key) as stream:
        if check_kind:
            sources.require_right_key(left, stream)
        listed = sources.compare_sources(md5, source, files, tasks.__contains__, threads)

        def restore(encrypted: Encrypted, tell: Tell) -> Made:
            return encrypted.name, _restored(encrypted, stream, target / encrypted.name, tell)

        with _manifest(target, known) as enter:
            file_pool.each(left, lambda e: e.size, restore, 'Decrypting', threads, enter)
    print(f'Files restored: {len(new)}, there already: {len(tasks) - len(new)}.')
    return _compared(target, known, listed, md5)


def encrypt(
    source: str | Path, key: str | Path, target: str | Path, md5: str | Path = '', threads: int = 0
) -> Path:
    """Makes XOR diffs as BELLE published them, which whoever has the key can restore.

    Args:
        source: A file, or a directory; its hidden files, README and licence are named and stay.
        key: See `decrypt`, as for the rest.
        target: A directory.
        md5: A list to check against, of the files or of the encrypted ones.
        threads: How many.
    Returns:
        The directory.
    """
    source, target = sources.places(source, target)
    files = sources.files_of(source)
    tasks = {f.name: f for f in files if f == source or not STAYS.fullmatch(f.name)}
    sources.pass_over(source, tasks.values())
    if not tasks:
        raise ValueError(f'--source={source} contains no file to encrypt.')
    sources.require_other(tasks.values(), key)
    written = [target, target / MANIFEST]
    distinct({'--source': source, '--key': key, '--md5': md5}, {'--target': written})
    known = checksums.read_manifest(target)
    there: list[str] = []

    def is_ours(name: str) -> bool:
        return bool(parts := cipher.split_name(name)) and parts[0] in tasks

    with Key(key) as stream:
        for file in tasks.values():
            sources.require_plain(file)
        begun = {parts[0] for name in known if (parts := cipher.split_name(name))}
        size = sum(f.stat().st_size for name, f in tasks.items() if name not in begun)
        _look_for_room(target, size, is_ours)
        listed = sources.compare_sources(md5, source, files, is_ours, threads)

        def make(file: Path, tell: Tell) -> Made:
            return _made(file, stream, target, known, there, tell)

        with _manifest(target, known) as enter:
            # A file is read twice.
            file_pool.each(
                tasks.values(), lambda f: 2 * f.stat().st_size, make, 'Encrypting', threads, enter
            )
    print(f'Files encrypted: {len(tasks) - len(there)}, there already: {len(there)}.')
    return _compared(target, known, listed, md5)


def verify(
    source: str | Path,
    key: str | Path = '',
    md5: str | Path = '',
    threads: int = 0,
    check_kind: bool = True,
) -> str:
    """Reads files again, compares them with all that says how they should be, and writes nothing.

    Args:
        source: A file, or a directory; its manifest is used where it has one.
        key: Where given, every encrypted file is decrypted and compared with its SHA-256.
        md5: A published list; of encrypted files, of others, or with a key of what they become.
        threads: Files at a time; 0: one for each core.
        check_kind: See `decrypt`.
    Returns:
        A sentence that says what was checked.
    Raises:
        ValueError: files are missing or differ, each named, or there is nothing to compare with.
    """
    source = Path(source)
    files = {f.name: f for f in sources.files_of(source)}
    known = checksums.read_manifest(source if source.is_dir() else source.parent)
    listed = checksums.read_list(md5) if md5 else {}
    whole = source.is_dir()
    if not whole:
        known = {n: e for n, e in known.items() if n in files}
    if not (known or listed or key):
        raise ValueError(
            f'{source} has no {MANIFEST} to compare with: give --md5=FILE, or --key=FILE for '
            'encrypted files.'
        )
    made = _decrypted(source, list(files.values()), key, threads, check_kind) if key else {}
    if not whole:
        listed = {n: h for n, h in listed.items() if n in files or n in made}
        if md5 and not listed:
            raise ValueError(f'--md5={md5} does not name {shown(source.name)}.')
    checked = {n: f for n, f in files.items() if n in known or (n in listed and n not in made)}
    sources.pass_over(source, [*checked.values(), *(source / e.source for e in made.values())])
    found = sources.measured(checked.values(), threads)
    faults = [sentence for n, e in known.items() if (sentence := _compare(n, e, found.get(n)))]
    faults += checksums.compare(listed, made | found, md5)
    if not key and any((parts := cipher.split_name(n)) and parts[0] in listed for n in files):
        faults.append(f'With --key, what the encrypted files become is compared with {md5}.')
    file_pool.fail(faults)
    count = len({*checked, *(e.source for e in made.values())})
    decrypted = f', {len(made)} by decrypting' if made else ''
    return f'Files checked: {count}{decrypted}; all are right.'


def _decrypted(
    source: Path, files: list[Path], key: str | Path, threads: int, check_kind: bool
) -> dict[str, Checksums]:
    """What the encrypted files become, by name."""
    tasks = sources.encrypted_of(source, files).values()
    with Key(key) as stream:
        if check_kind:
            sources.require_right_key(tasks, stream)
        return file_pool.each(
            tasks,
            lambda e: e.size,
            lambda e, tell: (e.name, cipher.decrypt(e, stream, None, tell)),
            'Decrypting',
            threads,
        )


def _compare(name: str, entry: Checksums, found: Checksums | None) -> str:
    """A sentence where a file is not what the manifest says."""
    if not found:
        return f'{shown(name)} is missing: {MANIFEST} names it.'
    if found.size != entry.size:
        return f'{shown(name)} has {found.size} bytes, and {MANIFEST} has {entry.size}.'
    if found.sha256 != entry.sha256:
        return f'{shown(name)} is damaged: its SHA-256 is not that of {MANIFEST}.'
    return ''


def _is_complete(encrypted: Encrypted, path: Path, known: Checksums | None) -> bool:
    right = known and (known.sha256, known.size) == (encrypted.sha256, encrypted.size)
    return bool(right) and path.is_file() and path.stat().st_size == encrypted.size


def _restored(encrypted: Encrypted, key: Key, path: Path, tell: Tell) -> Checksums:
    """Restores a file, or finds that it is there already."""
    if not os.path.lexists(path):
        return cipher.decrypt(encrypted, key, path, tell)
    found = checksums.measure(path, tell, encrypted.path.name)
    if found.sha256 != encrypted.sha256:
        raise ValueError(
            f'{shown(path)} is there already and is something else: remove it, or give another '
            '--target.'
        )
    return found


def _made(
    file: Path, key: Key, target: Path, known: dict[str, Checksums], there: list[str], tell: Tell
) -> Made:
    """Encrypts a file, or finds that it is there already, and notes that."""
    sha256 = cipher.digest(file, tell)
    path = target / f'{file.name}.{sha256}.enc'
    if not os.path.lexists(path):
        return path.name, cipher.encrypt(file, sha256, key, path, tell)
    # Its name says nothing of its key: an earlier run may have had another.
    if not cipher.is_made_from(path, file, key):
        raise ValueError(
            f'{shown(path)} is there already, made with another key or damaged: remove it.'
        )
    there.append(path.name)
    found = known.get(path.name)
    if not found or found.size != path.stat().st_size:
        cipher.decrypt(cipher.examine(path), key, None, tell)
        found = checksums.measure(path, tell, file.name)
    return path.name, found


def _look_for_room(target: Path, size: int, is_ours: Callable[[str], bool]) -> None:
    """Removes first what a killed run left unfinished of our files."""
    sweep(target, lambda n: is_ours(n) or n == MANIFEST)
    require_room(target, size)


@contextlib.contextmanager
def _manifest(
    target: Path, known: dict[str, Checksums]
) -> Iterator[Callable[[str, Checksums], None]]:
    """Makes the target, or goes on with it, and keeps other writers out.

    In the end the target is removed if it was made here and is still empty. Yields what enters a
    complete file into the manifest.
    """

    def enter(name: str, made: Checksums) -> None:
        known[name] = made
        checksums.write_manifest(target, known)

    new = not target.exists()
    name = f'--target={target}'
    busy = OSError(f'another process is writing to {name}: wait until it is done.')
    try:
        with explaining(target, name, FULL):
            target.mkdir(parents=True, exist_ok=True)
            with locked(target, busy):
                yield enter
    finally:
        if new:
            with contextlib.suppress(OSError):
                target.rmdir()


def _compared(
    target: Path, known: dict[str, Checksums], listed: dict[str, str], md5: str | Path
) -> Path:
    """Compares what is there now with the rest of a list; returns the manifest."""
    made = {name: found for name, found in known.items() if (target / name).is_file()}
    file_pool.fail(checksums.compare(listed, made, md5))
    return target / MANIFEST
