"""What the XOR diffs' programs are given: files, keys and lists, looked at before the work.

What is wrong with them is a ValueError.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from belle_jax.diffs.xor import checksums, cipher, file_pool
from belle_jax.diffs.xor.blocks import Tell
from belle_jax.diffs.xor.checksums import Checksums, shown
from belle_jax.diffs.xor.cipher import Encrypted, Key
from belle_jax.diffs.xor.file_kind import Verdict
from belle_jax.diffs.xor.file_pool import Made

LONGEST = 255 - 20  # bytes of a file name, with room for what it is called while it is written


def places(source: str | Path, target: str | Path) -> tuple[Path, Path]:
    """Both as paths, where the target can be a directory."""
    source, target = Path(source), Path(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f'--target={target} is a file: give a directory.')
    return source, target


def files_of(source: Path) -> list[Path]:
    """The file itself, or the regular files of a directory, by name."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f'--source={source} is not there: give a file or a directory.')
    return sorted(p for p in source.iterdir() if p.is_file())


def encrypted_of(source: Path, files: Iterable[Path]) -> dict[str, Encrypted]:
    """The encrypted ones among them, at least one, by the name of their plaintext."""
    found: dict[str, Encrypted] = {}
    for file in files:
        if file.suffix != '.enc' and file != source:
            continue
        encrypted = cipher.examine(file)
        if encrypted.name in found:
            raise ValueError(f'{source} holds {shown(encrypted.name)} twice: keep one of them.')
        _require_short(encrypted.name, file)
        found[encrypted.name] = encrypted
    if not found:
        raise ValueError(f'--source={source} contains no file <name>.<64 hexadecimal digits>.enc.')
    return found


def pass_over(source: Path, taken: Iterable[Path]) -> None:
    """Names what a directory holds and is not worked on."""
    if source.is_dir():
        names = {p.name for p in taken} | {checksums.MANIFEST}
        if others := sorted(p.name for p in source.iterdir() if p.name not in names):
            print(f'Passed over: {shown(*others)}')


def require_other(files: Iterable[Path], key: str | Path) -> None:
    """Refuses a key that is among the files: XORed with itself, nothing is left."""
    for file in files:
        if Path(key).exists() and file.samefile(key):
            raise ValueError(f'{shown(file)} is --key too: leave it out of --source.')


def require_right_key(tasks: Iterable[Encrypted], key: Key) -> None:
    """Decrypts both ends of every file; a wrong key shows here, where the kind of file tells it."""
    found: dict[Verdict, list[Path]] = {}
    for encrypted in tasks:
        verdict = cipher.judge(encrypted.path, encrypted.name, key)
        found.setdefault(verdict, []).append(encrypted.path)
    if files := found.get(Verdict.WRONG_START):
        start = 'what comes out does not begin as its name says'
        fault = f'--key={key.path} is not what {shown(*files)} was made with: {start}'
        if Verdict.RIGHT in found:
            fault = (
                f'{shown(*files)} was made with another key, or is damaged: --key={key.path} fits '
                f'other files, and here {start}'
            )
    elif files := found.get(Verdict.WRONG_END):
        fault = (
            f'{shown(*files)} decrypts to a right beginning and a wrong end: the file, or --key='
            f'{key.path}, is cut short or damaged'
        )
    else:
        return
    raise ValueError(
        f'{fault}. Nothing was written. If the files are of other kinds than their names say, add '
        '--nocheck_kind.'
    )


def require_plain(file: Path) -> None:
    """Looks at what is to be encrypted: its name, and whether its contents fit that."""
    if cipher.split_name(file.name):
        raise ValueError(f'{shown(file)} is encrypted already.')
    _require_short(f'{file.name}.{"0" * 64}.enc', file)
    if cipher.judge(file, file.name) in (Verdict.WRONG_START, Verdict.WRONG_END):
        print(
            f'{shown(file.name)} is not a {file.suffix} file as others are: to restore it takes '
            '--nocheck_kind.'
        )


def _require_short(name: str, file: Path) -> None:
    """Refuses a name that the disk will not take for what is made from the file."""
    if len(os.fsencode(name)) > LONGEST or name == checksums.MANIFEST:
        raise ValueError(f'{shown(file)} would become {shown(name)}, which cannot be: rename it.')


def compare_sources(
    md5: str | Path,
    source: Path,
    files: Iterable[Path],
    is_made: Callable[[str], bool],
    threads: int,
) -> dict[str, str]:
    """Compares the source's files with a published list, where one is given.

    Args:
        is_made: Whether a file of that name is yet to be made.
    Returns:
        The rest of the list, to compare with what is made.
    """
    if not md5:
        return {}
    listed = checksums.read_list(md5)
    here = {f.name: f for f in files if f.name in listed and not is_made(f.name)}
    made = {n for n in listed if is_made(n)}
    if not here and not made:
        raise ValueError(f'--md5={md5} names nothing in {source}, nor what is made from it.')
    found = measured(here.values(), threads)
    file_pool.fail(checksums.compare({n: listed[n] for n in here}, found, md5))
    return {n: listed[n] for n in listed if n in made or (source.is_dir() and n not in here)}


def measured(files: Iterable[Path], threads: int) -> dict[str, Checksums]:
    """Checksums of files, by name."""

    def measure(file: Path, tell: Tell) -> Made:
        return file.name, checksums.measure(file, tell)

    return file_pool.each(files, lambda f: f.stat().st_size, measure, 'Checking', threads)
