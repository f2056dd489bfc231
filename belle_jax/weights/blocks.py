"""Files as blocks: read once for several users, written so that the disk works all the time."""

import collections
import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

BLOCK = 2**20  # bytes; a block stays in the processor's cache from one use to the next
PIECE = 32 * 2**20  # bytes that are written before the disk is to have them
AHEAD = 4  # blocks that are read before the slowest user of the first is done with it

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
    takes as long as reading, XOR, SHA-256 and writing together, so these need no further threads.

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
def settling(file: IO[bytes]) -> Iterator[Sink]:
    """Yields what writes blocks to a file, and has the disk take them meanwhile.

    Left alone, the kernel collects what is written, and in the end everybody waits for the disk.
    Its memory is also let go at once and used for the next blocks: that leaves other files in
    memory, and new memory costs more than the copying, several times more in a virtual machine.
    """
    written = sent = 0
    settled: concurrent.futures.Future | None = None
    descriptor = file.fileno()

    def settle(start: int, size: int) -> None:
        getattr(os, 'fdatasync', os.fsync)(descriptor)
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)

    def write(block: Any) -> None:
        nonlocal written, sent, settled
        file.write(block)
        written += len(block)
        if written - sent >= PIECE:
            file.flush()
            if settled:
                settled.result()  # a disk that is slower than we are is waited for here
            settled = pool.submit(settle, sent, written - sent)
            sent = written

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield write
        if settled:
            settled.result()


def read(descriptor: int, out: np.ndarray, start: int) -> int:
    """Reads from byte `start` until `out`, uint8 [n], is full or the file ends.

    Returns:
        Bytes that were read.
    """
    done = 0
    while done < len(out) and (count := os.preadv(descriptor, [out[done:].data], start + done)):
        done += count
    return done
