"""Work that threads do ahead of the one that takes the results, which come in order."""

import collections
import concurrent.futures
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def ahead(tasks: Iterable[Callable[[], Any]], threads: int = 0) -> Iterator[Iterator[Any]]:
    """Results of tasks in their order, a few of them computed ahead.

    Args:
        tasks: Taken one by one, so that they may be many; what they do should mostly be outside of
            the interpreter's lock (compression, checksums, large arrays).
        threads: That work; 0 for one a processor.
    Yields:
        The results. A task's error is raised where its result would come.
    """
    threads = threads or len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()

        def results() -> Iterator[Any]:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield results()
        finally:
            for future in waiting:  # after an error, what has not begun need not
                future.cancel()
