"""Works on several files at a time, and says how far it is."""

import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from belle_jax.diffs.xor.blocks import Tell
from belle_jax.progress import Progress

MOST = 8  # files at a time: each has some 12 MB in memory
SHOWN = 20  # sentences of one message

T = TypeVar('T')
R = TypeVar('R')


def each(
    tasks: Iterable[T],
    size: Callable[[T], int],
    work: Callable[[T, Tell], R],
    what: str,
    threads: int = 0,
    finish: Callable[[R], object] = lambda _: None,
) -> dict[T, R]:
    """Works on every task, the largest first, also when another one has failed.

    Args:
        tasks: Files, in any form.
        size: Bytes that one of them takes to read.
        work: Called in threads, with a task and a function that is to be told of bytes done; that
            function raises when the work is to stop.
        what: Is being done, for the progress line.
        threads: Files at a time; 0: one for each core, which keeps all busy also while a file
            waits for the disk.
        finish: Called in this thread with what came of a task, as soon as it is there.
    Returns:
        What came of each task.
    Raises:
        ValueError: in the end, with what the tasks' own ones say.
        OSError: of a task, such as a full disk, which would stop the others too.
    """
    tasks = sorted(tasks, key=size, reverse=True)  # keeps all cores busy to the end
    total = max(1, sum(map(size, tasks)))
    made: dict[T, R] = {}
    meter, faults, progress = _Meter(), [], Progress(what, 'MB')
    at_once = min(MOST, threads or os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(work, task, meter): task for task in tasks}
        try:
            left = set(futures)
            while left:
                done, left = concurrent.futures.wait(
                    left, 0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                progress.show(meter.bytes // 10**6, min(1.0, meter.bytes / total))
                for future in sorted(done, key=lambda f: f.exception() is not None):
                    try:
                        made[futures[future]] = future.result()
                    except ValueError as error:
                        faults.append(str(error))
                    else:
                        finish(made[futures[future]])
        finally:
            meter.stopped = True
            for future in futures:
                future.cancel()
    progress.end(meter.bytes // 10**6)
    fail(faults)
    return made


def fail(faults: list[str]) -> None:
    """Raises the sentences that there are.

    Raises:
        ValueError: there are any.
    """
    if faults:
        more = f' And {len(faults) - SHOWN} more.' if len(faults) > SHOWN else ''
        raise ValueError(' '.join(faults[:SHOWN]) + more)


class _Meter:
    """Counts bytes over all threads, and stops them."""

    def __init__(self) -> None:
        self.bytes, self.stopped = 0, False
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        if self.stopped:
            raise InterruptedError
        with self._lock:
            self.bytes += count
