"""The directory that XOR diffs are written to: one writer at a time, nothing half written in it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from belle_jax.diffs.xor import checksums
from belle_jax.files import explaining, locked, remove_leftovers

FULL = (
    'the files that were complete are kept, and the same command goes on from there. Make room '
    'first.'
)


@contextlib.contextmanager
def opened(directory: Path, is_ours: Callable[[str], bool]) -> Iterator[None]:
    """Makes a directory, or goes on with one, and keeps other writers out of it.

    Args:
        directory: Made if need be, and removed again if it is still empty in the end.
        is_ours: Whether this work makes a file of that name: what a run that was killed has left
            unfinished of it is removed.
    Raises:
        OSError: it cannot be written, another process is at work in it, or the disk is full.
    """
    new = not directory.exists()
    name = f'--target={directory}'
    busy = OSError(f'another process is writing to {name}: wait until it is done.')
    try:
        with explaining(directory, name, FULL):
            directory.mkdir(parents=True, exist_ok=True)
            with locked(directory, busy):
                remove_leftovers(directory, lambda n: is_ours(n) or n == checksums.MANIFEST)
                yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                directory.rmdir()
