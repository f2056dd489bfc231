"""Files as blocks: read once for several users, written so that the disk works all the time."""

import collections
import concurrent.futures
import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

BLOCK = 2**20  # bytes; a block stays in the processor's cache from one use to the next
PIECE = 4 * 2**20  # bytes that are written at a time, whole pages
AHEAD = 6  # blocks that are read before the slowest user of the first is done with it

Tell = Callable[[int], object]  # is told of bytes that were read; may raise, to stop
Sink = Callable[[Any], object]  # takes the blocks, in order
Change = Callable[[np.ndarray, int, np.ndarray], object]  # of (block, its place, result)


def stream(
    path: Path,
    sinks: Sequence[Sink],
    tell: Tell,
    start: int = 0,
    change: Change | None = None,
    changed: Sequence[Sink] = (),
) -> int:
    """Gives every block to every sink; all but the last one run in threads of their own.

    Hashing, writing and NumPy release the interpreter's lock, so they run beside each other. MD5
    takes as long as reading, XOR and SHA-256 together, so these need no further threads.

    Args:
        path: The file; not mapped, for pages of mapped files count as the process's memory.
        sinks: Take the blocks, uint8 [n], as they are in the file.
        tell: See Tell.
        start: Bytes to leave out.
        change: Computes a second block from each; `place` counts from `start`.
        changed: Take those. Of sinks and changed together there is one at least.
    Returns:
        Bytes that were read.
    """
    # Used in turns: when one comes round again, all its sinks are done with it.
    buffers = np.empty((AHEAD + 1, 2, BLOCK), np.uint8)
    waiting: collections.deque[list[concurrent.futures.Future]] = collections.deque()
    place, turn, count = 0, 0, BLOCK
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open('rb', buffering=0))
        threads = [
            stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
            for _ in (*sinks, *changed)[:-1]
        ]
        while count == BLOCK:
            count = read(file.fileno(), buffers[turn, 0], start + place)
            block, other = buffers[turn, :, :count]
            if change:
                change(block, place, other)
            *work, last = [(s, block) for s in sinks] + [(s, other) for s in changed]
            waiting.append([t.submit(*w) for t, w in zip(threads, work, strict=True)])
            last[0](last[1])
            place, turn = place + count, (turn + 1) % len(buffers)
            while waiting and (len(waiting) > AHEAD or count < BLOCK):
                for future in waiting.popleft():
                    future.result()
            tell(count)
    return place


@contextlib.contextmanager
def writing(file: IO[bytes]) -> Iterator[Sink]:
    """Yields what writes blocks to a new file, past the kernel's cache where that can be.

    A file much larger than memory only passes through the cache: its pages push out those that are
    read next, in a virtual machine each costs several times the copying, and in the end everybody
    waits for the disk. Where the file system does not know direct writing, the cache serves.
    """
    piece = np.frombuffer(mmap.mmap(-1, PIECE), np.uint8)  # whole pages
    descriptor, filled = file.fileno(), 0

    def write(block: Any) -> None:
        nonlocal filled
        block, done = np.frombuffer(block, np.uint8), 0
        while done < len(block):
            taken = min(len(block) - done, PIECE - filled)
            piece[filled : filled + taken] = block[done : done + taken]
            filled, done = filled + taken, done + taken
            if filled == PIECE:
                _write(descriptor, piece)
                filled = 0

    _past_the_cache(descriptor, True)
    yield write
    _past_the_cache(descriptor, False)  # the rest fills no sector
    file.write(piece[:filled].data)


def _past_the_cache(descriptor: int, wanted: bool) -> bool:
    """Switches direct writing; whether it was on."""
    flags, direct = fcntl.fcntl(descriptor, fcntl.F_GETFL), getattr(os, 'O_DIRECT', 0)
    with contextlib.suppress(OSError):  # tmpfs and others
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | direct if wanted else flags & ~direct)
    return bool(flags & direct)


def _write(descriptor: int, piece: np.ndarray) -> None:
    done = 0
    while done < len(piece):
        try:
            done += os.write(descriptor, piece[done:].data)
        except OSError as error:
            # Some file systems take the switch and refuse the writing.
            if error.errno != errno.EINVAL or not _past_the_cache(descriptor, False):
                raise


def read(descriptor: int, out: np.ndarray, start: int) -> int:
    """Reads from byte `start` until `out`, uint8 [n], is full or the file ends; how many bytes."""
    done = 0
    while done < len(out) and (count := os.preadv(descriptor, [out[done:].data], start + done)):
        done += count
    return done
