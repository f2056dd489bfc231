"""Whether the paths of one command are different places."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

Given = str | Path | None | Iterable[str | Path]


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
