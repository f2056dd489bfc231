"""Requests and tokens a minute: each request gets the next moment at which both allow it."""

import asyncio
import time
from collections.abc import Awaitable, Callable


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
