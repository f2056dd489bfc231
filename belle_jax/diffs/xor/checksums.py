"""Checksums that travel with files: a manifest of what was made, and lists in md5sum's form."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from belle_jax.diffs.xor import blocks
from belle_jax.files import write_text
from belle_jax.json_files import read_json

MANIFEST = 'xor_manifest.json'


@dataclasses.dataclass(frozen=True)
class Checksums:
    """What is known of a file; the checksums are in hex."""

    size: int  # bytes
    sha256: str
    md5: str  # not against forgery, but it is what model cards list
    source: str = ''  # name of the file that it was made from


def measure(path: Path, tell: blocks.Tell, source: str = '') -> Checksums:
    """Reads a file, and computes both checksums at the same time."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size = blocks.stream(path, (md5.update, sha256.update), tell)
    return Checksums(size, sha256.hexdigest(), md5.hexdigest(), source)


def read_manifest(directory: Path) -> dict[str, Checksums]:
    """The files that a directory's manifest lists; none where there is no manifest.

    Raises:
        ValueError: it is damaged, or names something beyond the directory.
    """
    path = directory / MANIFEST
    if not path.exists():
        return {}
    try:
        values = read_json(path)['files']
        entries = {
            str(name): Checksums(int(v['size']), str(v['sha256']), str(v['md5']), str(v['source']))
            for name, v in values.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f'{path} is damaged ({error!r}): remove it; what is complete is found again.'
        ) from error
    for name in entries:
        if not is_plain(name):
            raise ValueError(f'{path} names {name!r}, which is not a plain file name: refused.')
    return entries


def write_manifest(directory: Path, entries: Mapping[str, Checksums]) -> None:
    """Writes the manifest, atomically."""
    values = {name: dataclasses.asdict(entry) for name, entry in sorted(entries.items())}
    write_text(directory / MANIFEST, json.dumps({'files': values}, indent=1) + '\n')


def read_list(path: str | Path) -> dict[str, str]:
    """A published list, lines of `HASH  ./name`.

    Returns:
        md5 by file name, without the folder; not that of the manifest, which is made anew.
    Raises:
        ValueError: a line is something else, or two disagree.
    """
    listed: dict[str, str] = {}
    try:
        lines = Path(path).read_text('utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f'--md5={path} is not UTF-8 text: give lines HASH  ./name.') from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = re.fullmatch(r'\s*([0-9a-fA-F]{32})\s[\s*]?\s*(\S.*?)\s*', line)
        if not found:
            raise ValueError(
                f'--md5={path}, line {number}, is not a line HASH  ./name: {line[:80]!r}. Keep '
                'only those lines.'
            )
        name, md5 = found[2].rsplit('/', 1)[-1], found[1].lower()
        if listed.setdefault(name, md5) != md5:
            raise ValueError(f'--md5={path}, line {number}, has another hash for {shown(name)}.')
    listed.pop(MANIFEST, None)
    if not listed:
        raise ValueError(f'--md5={path} lists nothing: give lines HASH  ./name.')
    return listed


def compare(
    listed: Mapping[str, str], actual: Mapping[str, Checksums], md5: str | Path
) -> list[str]:
    """Sentences, one for each file that is missing or is not as the list `md5` has it."""
    faults = []
    for name, digest in listed.items():
        if name not in actual:
            faults.append(f'{shown(name)} is missing: --md5={md5} names it.')
        elif (found := actual[name].md5) != digest:
            faults.append(f'{shown(name)} has the md5 {found}, and --md5={md5} has {digest}.')
    return faults


def is_plain(name: str) -> bool:
    """Whether it names a file in the directory where it is put, on any system."""
    return name not in ('', '.', '..') and not set(name) & set('/\\\0')


def shown(*names: str | Path) -> str:
    """Names as messages give them: line breaks and what no terminal shows are escaped."""
    texts = map(str, names)
    return ', '.join(text if text.isprintable() else repr(text) for text in texts)
