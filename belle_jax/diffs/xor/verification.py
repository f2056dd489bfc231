"""Checks files of an XOR diff, encrypted or restored, and writes nothing."""

from pathlib import Path

from belle_jax.diffs.xor import checksums, cipher, file_pool, sources
from belle_jax.diffs.xor.checksums import MANIFEST, Checksums, shown
from belle_jax.diffs.xor.cipher import Key


def verify(
    source: str | Path,
    key: str | Path = '',
    md5: str | Path = '',
    threads: int = 0,
    check_kind: bool = True,
) -> str:
    """Reads files again, and compares them with everything that says how they should be.

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
