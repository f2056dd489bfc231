"""What holds requests back: limits a minute, retries, the circuit breaker, and the end of a run."""

import asyncio
import contextlib
import email.utils
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from belle_jax.api.request import Failure, Unreachable


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


@dataclass(frozen=True)
class Retries:
    """The bounds of one request's attempts.

    Attributes:
        attempts: The most of them.
        first_delay: Seconds; the back-off before attempt n+1 is drawn from 0 to
            first_delay * 2^(n-1) ("full jitter"), so that many that failed together come apart.
        longest_delay: Where doubling ends, in seconds.
        attempt_timeout: Seconds until an attempt counts as failed.
        deadline: Seconds for all attempts of a request and the pauses between them; waiting for
            the rate limit or for a server that is down for all does not count.
        shortenings: How often max_tokens is multiplied by 0.8 for a prompt that is too long.
    Source: full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; the
        factor 0.8: BELLE and Stanford Alpaca.
    """

    attempts: int = 10
    first_delay: float = 1.0
    longest_delay: float = 60.0
    attempt_timeout: float = 120.0
    deadline: float = 900.0
    shortenings: int = 10

    def delay(self, attempt: int, retry_after: float | None, chance: random.Random) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: Which failed, from 1.
            retry_after: What the server asked for; never undercut.
            chance: Where the jitter comes from.
        """
        # The exponent is bounded, as no float is as large as 2 to the 1024th.
        widest = min(self.longest_delay, self.first_delay * 2.0 ** min(attempt - 1, 60))
        jitter = chance.uniform(0, widest)
        if retry_after is None:
            return jitter
        # Many are told the same moment: a little jitter on top keeps them from coming at once.
        return retry_after + min(jitter, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """What a response asks to wait.

    Args:
        headers: Of the response, names in lower case.
    Returns:
        Seconds from now, or None where it asks nothing that can be read.
    Source: RFC 9110, section 10.2.3 (seconds or a date); `retry-after-ms` is OpenAI's and Azure's.
    """
    for name, unit in (('retry-after-ms', 1000.0), ('retry-after', 1.0)):
        try:
            seconds = float(headers.get(name, '')) / unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float('inf') else None
    moment = _date(headers.get('retry-after', ''))
    if moment is None:
        return None
    # The server's own clock, where it tells it: ours may be off by more than the wait.
    now = _date(headers.get('date', ''))
    return max(0.0, moment - (time.time() if now is None else now))


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


class Breaker:
    """The circuit breaker: many failures in a row, whoever asked, open it; an answer closes it.

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
            first_deadline: The same, if it is less, while there was no answer yet and every failure
                is the same one, as when the address is wrong or the balance empty; not where the
                server is slow, or says when to come back.
            clock: Seconds.
            sleep: Waits for that many seconds.
        """
        self._failures, self._first, self._longest = failures, first_pause, longest_pause
        self._deadline, self._first_deadline = deadline, min(first_deadline, deadline)
        self._clock, self._sleep = clock, sleep
        self._in_a_row, self._pause, self._until = 0, 0.0, 0.0
        self._answered, self._reasons, self._may_pass = False, set[str](), False
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
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(self._probe)
            if self.is_open:
                await self._sleep(max(0.0, self._until - self._clock()))
            if self.is_open:
                held.pop_all()  # `leave` lets it go
                return True
        return False

    def leave(self, probe: bool) -> None:
        """Ends an attempt, whatever came of it; after `succeeded` or `failed`."""
        if probe:
            self._probe.release()

    def succeeded(self) -> None:
        """The server answered."""
        self._in_a_row, self._pause, self._answered = 0, 0.0, True
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
        self._reasons.add(failure.reason)
        self._may_pass = self._may_pass or failure.slow or retry_after is not None
        hopeless = not (self._answered or self._may_pass) and len(self._reasons) == 1
        deadline = self._first_deadline if hopeless else self._deadline
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
                f'journal: {failure.advice}'
            )


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
