"""What bounds requests and counts them: limits a minute, the end of a run, live numbers."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


class Limits:
    """Spreads requests evenly, so that no minute holds more than the limits.

    A token bucket without a burst: a request takes the next free moment and moves it on by what it
    costs. Tokens are reserved by an estimate and corrected when the server has counted.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Starts with nothing reserved.

        Args:
            requests_per_minute: None for any number.
            tokens_per_minute: Of prompts and answers together; None for any number.
            clock: Seconds.
            sleep: Waits for that many seconds.
        Raises:
            ValueError: for a limit of 0 or less.
        """
        for name, limit in (('requests', requests_per_minute), ('tokens', tokens_per_minute)):
            if limit is not None and limit <= 0:
                raise ValueError(
                    f'{limit:g} {name} a minute let nothing through: give more than 0.'
                )
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._requests_free = self._tokens_free = clock()

    async def acquire(self, tokens: int) -> None:
        """Waits until a request of that many tokens may go out, in the order of asking.

        Args:
            tokens: The most that it may take, prompt and answer.
        """
        now = self._clock()
        start = max(now, self._requests_free, self._tokens_free)
        self._requests_free = start + self._per_request
        self._tokens_free = start + tokens * self._per_token
        if start > now:
            await self._sleep(start - now)

    def settle(self, reserved: int, used: int) -> None:
        """Corrects a reservation.

        Args:
            reserved: What `acquire` was given.
            used: What the server counted; 0 for an attempt that came to nothing.
        """
        self._tokens_free -= (reserved - used) * self._per_token


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


@dataclass
class Counters:
    """What has happened so far, for a live line. The event loop writes; any thread may read.

    Attributes:
        in_flight: Requests that are being asked, or wait for another try.
        asked: Requests that this run began to ask.
        answered: Of these, those with an answer in the journal.
        given_up: Of these, those that were given up.
        from_journal: Replies taken from the journal.
        used: Replies that were given to `use`.
        retries: Further attempts by the reason of the failure before.
        prompt_tokens: Of this run, attempts that came to nothing included.
        completion_tokens: Likewise.
        cost_usd: Likewise.
        paused: Whether the circuit breaker holds everything back.
    """

    in_flight: int = 0
    asked: int = 0
    answered: int = 0
    given_up: int = 0
    from_journal: int = 0
    used: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    paused: bool = False
