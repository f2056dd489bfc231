"""Works on several files at a time, and says how far it is."""

import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from belle_jax.diffs.xor.blocks import Tell
from belle_jax.progress import Progress

MOST = 8  # files at a time: each has some 12 MB in memory

T = TypeVar('T')
R = TypeVar('R')


def each(
    tasks: Iterable[T],
    work: Callable[[T, Tell], R],
    finish: Callable[[T, R], object],
    what: str,
    total: int,
    threads: int = 0,
) -> list[str]:
    """Works on every task, also when another one has failed.

    Args:
        tasks: The largest first keeps all cores busy to the end.
        work: Called in threads, with a task and a function that is to be told of bytes done; that
            function raises when the work is to stop.
        finish: Called in this thread with each task and what came of it.
        what: Is being done, for the progress line.
        total: Bytes of all tasks.
        threads: Files at a time; 0: one for each core, which keeps all busy also while a file
            waits for the disk.
    Returns:
        What the ValueErrors of tasks say.
    Raises:
        OSError: of a task, such as a full disk, which would stop the others too.
    """
    meter, faults = _Meter(), []
    progress = Progress(what, 'MB')
    at_once = min(MOST, threads or os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(work, task, meter): task for task in tasks}
        try:
            left = set(futures)
            while left:
                done, left = concurrent.futures.wait(
                    left, 0.5, return_when=concurrent.futures.FIRST_COMPLETED
                )
                progress.show(meter.bytes // 10**6, min(1.0, meter.bytes / max(1, total)))
                for future in sorted(done, key=lambda f: f.exception() is not None):
                    try:
                        result = future.result()
                    except ValueError as error:
                        faults.append(str(error))
                    else:
                        finish(futures[future], result)
        finally:
            meter.stopped = True
            for future in futures:
                future.cancel()
    progress.end(meter.bytes // 10**6)
    return faults


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
