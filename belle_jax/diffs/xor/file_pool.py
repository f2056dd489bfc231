"""Works on several files at a time, and says how far it is."""

import concurrent.futures
import os
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from belle_jax.diffs.xor.blocks import Tell
from belle_jax.diffs.xor.checksums import Checksums
from belle_jax.progress import Progress

MOST = 8  # files at a time: each has some 12 MB in memory
SHOWN = 20  # sentences of one message

T = TypeVar('T')
Made = tuple[str, Checksums]  # of a file: its name, and what is known of it


def each(
    tasks: Iterable[T],
    size: Callable[[T], int],
    work: Callable[[T, Tell], Made],
    what: str,
    threads: int = 0,
    finish: Callable[[str, Checksums], object] = lambda *_: None,
) -> dict[str, Checksums]:
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
        What came of the tasks, by file name.
    Raises:
        ValueError: in the end, with what the tasks' own ones say.
        OSError: of a task, such as a full disk, which would stop the others too.
    """
    tasks = sorted(tasks, key=size, reverse=True)  # keeps all cores busy to the end
    total = max(1, sum(map(size, tasks)))
    made, faults, progress = {}, [], Progress(what, 'MB')
    done, lock, stopped = 0, threading.Lock(), threading.Event()

    def tell(count: int) -> None:
        nonlocal done
        if stopped.is_set():
            raise InterruptedError
        with lock:
            done += count

    at_once = min(MOST, threads or os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        left = {pool.submit(work, task, tell) for task in tasks}
        try:
            while left:
                ended, left = concurrent.futures.wait(left, 0.5, 'FIRST_COMPLETED')
                progress.show(done // 10**6, min(1.0, done / total))
                for future in sorted(ended, key=lambda f: f.exception() is not None):
                    try:
                        name, made[name] = future.result()
                    except ValueError as error:
                        faults.append(str(error))
                    else:
                        finish(name, made[name])
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
    progress.end(done // 10**6)
    fail(faults)
    return made


def fail(faults: list[str]) -> None:
    """Raises the sentences that there are, as a ValueError."""
    if faults:
        more = f' And {len(faults) - SHOWN} more.' if len(faults) > SHOWN else ''
        raise ValueError(' '.join(faults[:SHOWN]) + more)
