"""Winding down: what is at the server is finished, what waits is dropped."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any


class Drain:
    """Ends the waiting of many requests; an attempt that is under way is paid for and goes on."""

    def __init__(self) -> None:
        self.begun = False
        self._waiting: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        """From now on no attempt begins."""
        self.begun = True
        for task in self._waiting:
            task.cancel()

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """Around every wait of a request that is not at the server.

        Raises:
            asyncio.CancelledError: if the end has begun.
        """
        task = asyncio.current_task()
        if self.begun or task is None:
            raise asyncio.CancelledError
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)
