"""What the XOR diffs' programs are given: files, keys and lists, looked at before the work."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from belle_jax.diffs.xor import checksums, cipher, file_kind, file_pool
from belle_jax.diffs.xor.checksums import Checksums, listing, shown
from belle_jax.diffs.xor.cipher import Encrypted, Key
from belle_jax.diffs.xor.file_kind import Verdict

LONGEST = 255 - 20  # bytes of a file name, with room for what it is called while it is written


def apart(source: str | Path, target: str | Path) -> tuple[Path, Path]:
    """Both as paths.

    Raises:
        ValueError: they are the same directory, or the target is a file.
    """
    source, target = Path(source), Path(target)
    if target.exists() and not target.is_dir():
        raise ValueError(f'--target={target} is a file: give a directory.')
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f'--target={target} is --source too: give another directory.')
    return source, target


def files_of(source: Path) -> list[Path]:
    """The file itself, or the regular files of a directory, by name.

    Raises:
        ValueError: it is not there.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f'--source={source} is not there: give a file or a directory.')
    return sorted(p for p in source.iterdir() if p.is_file())


def encrypted_of(source: Path, files: Iterable[Path]) -> dict[str, Encrypted]:
    """The encrypted ones among them, by the name of their plaintext.

    Raises:
        ValueError: there are none, or one of them is wrong.
    """
    found: dict[str, Encrypted] = {}
    for file in files:
        if file.suffix != '.enc' and file != source:
            continue
        encrypted = cipher.examine(file)
        if encrypted.name in found:
            raise ValueError(f'{source} holds {shown(encrypted.name)} twice: keep one of them.')
        require_short(encrypted.name, file)
        found[encrypted.name] = encrypted
    if not found:
        raise ValueError(f'--source={source} contains no file <name>.<64 hexadecimal digits>.enc.')
    return found


def require_short(name: str, file: Path) -> None:
    """Refuses a name that the disk will not take.

    Raises:
        ValueError: it is what is to be made from the file, and too long.
    """
    if len(os.fsencode(name)) > LONGEST or name == checksums.MANIFEST:
        raise ValueError(f'{shown(file)} would become {shown(name)}, which cannot be: rename it.')


def pass_over(source: Path, taken: Iterable[Path]) -> None:
    """Names what a directory holds and is not worked on."""
    if source.is_dir():
        names = {p.name for p in taken} | {checksums.MANIFEST}
        if others := sorted(p.name for p in source.iterdir() if p.name not in names):
            print(f'Passed over: {listing(others)}')


def require_other(files: Iterable[Path], key: str | Path) -> None:
    """Refuses a key that is among the files: XORed with itself, nothing is left.

    Raises:
        ValueError: it is.
    """
    for file in files:
        if Path(key).exists() and file.samefile(key):
            raise ValueError(f'{shown(file)} is --key too: leave it out of --source.')


def require_right_key(tasks: Iterable[Encrypted], key: Key) -> None:
    """Decrypts both ends of every file; a wrong key shows here, where the kind of file tells it.

    Raises:
        ValueError: a file does not begin, or end, as its name says.
    """
    wrong: dict[Verdict, list[Path]] = {}
    for encrypted in tasks:
        wrong.setdefault(cipher.judge(encrypted, key), []).append(encrypted.path)
    otherwise = 'If the files are of other kinds than their names say, add --nocheck_kind.'
    files = wrong.get(Verdict.WRONG_START)
    if files and Verdict.RIGHT in wrong:
        raise ValueError(
            f'{listing(files)} was made with another key, or is damaged: --key={key.path} fits '
            f'other files, and here what comes out does not begin as its name says. Nothing was '
            f'written. {otherwise}'
        )
    if files:
        raise ValueError(
            f'--key={key.path} is not what {listing(files)} was made with: what comes out does not '
            f'begin as its name says. Nothing was written. {otherwise}'
        )
    if files := wrong.get(Verdict.WRONG_END):
        raise ValueError(
            f'{listing(files)} decrypts to a right beginning and a wrong end: the file, or --key='
            f'{key.path}, is cut short or damaged. Nothing was written. {otherwise}'
        )


def require_plain(file: Path) -> None:
    """Looks at what is to be encrypted.

    Raises:
        ValueError: it is encrypted already, or its name is too long.
    """
    if cipher.split_name(file.name):
        raise ValueError(f'{shown(file)} is encrypted already.')
    require_short(f'{file.name}.{"0" * 64}.enc', file)
    size = file.stat().st_size
    with file.open('rb') as opened:
        head = opened.read(file_kind.HEAD)
        opened.seek(max(0, size - file_kind.TAIL))
        verdict = file_kind.judge(file.name, head, opened.read(), size)
    if verdict in (Verdict.WRONG_START, Verdict.WRONG_END):
        print(
            f'{shown(file.name)} is not a {file.suffix} file as others are: to restore it takes '
            '--nocheck_kind.'
        )


def compare_sources(
    md5: str | Path,
    source: Path,
    files: Iterable[Path],
    is_made: Callable[[str], bool],
    threads: int,
) -> dict[str, str]:
    """Compares what is there already with a published list.

    Args:
        md5: The list; '' for none.
        source: As given.
        files: Of the source.
        is_made: Whether a file of that name is yet to be made.
        threads: Files at a time.
    Returns:
        The rest of the list, to compare with what is made.
    Raises:
        ValueError: a file differs, or the list is of something else.
    """
    if not md5:
        return {}
    listed = checksums.read_list(md5)
    here = {f.name: f for f in files if f.name in listed and not is_made(f.name)}
    made = {n for n in listed if is_made(n)}
    if not here and not made:
        raise ValueError(f'--md5={md5} names nothing in {source}, nor what is made from it.')
    found = {n: entry.md5 for n, entry in measured(here.values(), threads).items()}
    file_pool.fail(checksums.compare({n: listed[n] for n in here}, found, md5))
    return {n: listed[n] for n in listed if n in made or (source.is_dir() and n not in here)}


def measured(files: Iterable[Path], threads: int) -> dict[str, Checksums]:
    """Checksums of files, by name."""
    found = file_pool.each(
        files, lambda f: f.stat().st_size, checksums.measure, 'Checking', threads
    )
    return {file.name: entry for file, entry in found.items()}
