"""The circuit breaker: when a server is down, all wait and one request at a time looks again."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from belle_jax.api.errors import Failure, Unreachable


class Breaker:
    """Opens after that many failures in a row, whoever asked; one answer closes it.

    While it is open requests wait before their next attempt. After a pause one of them, the probe,
    goes out; if it fails the pause doubles.
    """

    def __init__(
        self,
        failures: int = 20,
        *,
        first_pause: float = 1.0,
        longest_pause: float = 60.0,
        deadline: float = 900.0,
        first_deadline: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Starts closed.

        Args:
            failures: In a row, that open it.
            first_pause: Seconds before the first probe.
            longest_pause: Where doubling ends, in seconds.
            deadline: Seconds without an answer after which the run stops.
            first_deadline: The same, if it is less, while nothing at all has come from the server,
                as when the address is wrong.
            clock: Seconds.
            sleep: Waits for that many seconds.
        """
        self._failures, self._first, self._longest = failures, first_pause, longest_pause
        self._deadline, self._first_deadline = deadline, min(first_deadline, deadline)
        self._clock, self._sleep = clock, sleep
        self._in_a_row, self._pause, self._until = 0, 0.0, 0.0
        self._heard = False
        # The begin of the silence: the last answer, or the first attempt of all.
        self._silent: float | None = None
        self._probe = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether requests are held back."""
        return self._in_a_row >= self._failures

    async def enter(self) -> bool:
        """Waits until an attempt may be made.

        Returns:
            Whether it is a probe; `leave` must be told.
        """
        if self._silent is None:
            self._silent = self._clock()
        if not self.is_open:
            return False
        # Whoever holds the lock is the probe; the others wait for it, and then look again.
        await self._probe.acquire()
        try:
            if self.is_open:
                await self._sleep(max(0.0, self._until - self._clock()))
        except BaseException:
            self._probe.release()
            raise
        if self.is_open:
            return True
        self._probe.release()
        return False

    def leave(self, probe: bool) -> None:
        """Ends an attempt, whatever came of it; after `succeeded` or `failed`."""
        if probe:
            self._probe.release()

    def succeeded(self) -> None:
        """The server answered."""
        self._in_a_row, self._pause, self._heard = 0, 0.0, True
        self._silent = self._clock()

    def failed(self, failure: Failure, retry_after: float | None, url: str) -> None:
        """An attempt failed.

        Args:
            failure: How.
            retry_after: Seconds that the server asked to wait, if it did.
            url: Of the server, for the sentence.
        Raises:
            Unreachable: when there was no answer for too long, or the server asks to wait longer.
        """
        now = self._clock()
        self._in_a_row += 1
        self._heard = self._heard or failure.answered
        deadline = self._deadline if self._heard else self._first_deadline
        silent = now - (now if self._silent is None else self._silent)
        if self.is_open:
            if now >= self._until:
                self._pause = min(self._longest, self._pause * 2 or self._first)
            self._until = max(self._until, now + max(self._pause, retry_after or 0.0))
        late = self.is_open and self._until - now > deadline
        if silent >= deadline or late:
            asked = f' and asks to wait {self._until - now:.0f} s' if late else ''
            raise Unreachable(
                f'{url} has not answered for {silent:.0f} s{asked}; the last of '
                f'{self._in_a_row} failures: {failure}. What was answered before is in the '
                f'journal: check the address, or start again when the server is back.'
            )
