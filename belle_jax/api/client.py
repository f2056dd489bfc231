"""The client: one request becomes one reply, through whatever the server does on the way."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from belle_jax.api.connection import Answer, Connection, read_answer
from belle_jax.api.pacing import Breaker, Limits, Retries, retry_after
from belle_jax.api.request import (
    Counters,
    Failure,
    Price,
    Reply,
    Request,
    answer_tokens,
    counted_tokens,
    prompt_tokens,
    text_tokens,
)

# Below this an answer is not worth having.
FEWEST_TOKENS = 16


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
class _Asking:
    """One request on its way: what it has taken so far."""

    body: dict[str, Any]
    attempts: int = 0
    failures: int = 0
    shortenings: int = 0
    spent: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage: dict[str, Any] = field(default_factory=dict)


class Client:
    """Asks one server, bounded in requests, tokens, time and tries.

    The key comes from the environment variable OPENAI_API_KEY and is kept by the connection alone.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        price: Price | None = None,
        limits: Limits | None = None,
        breaker: Breaker | None = None,
        retries: Retries | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: random.Random | None = None,
    ) -> None:
        """Connects to nothing yet.

        Args:
            base_url: As in https://host/v1; by default OPENAI_BASE_URL or OpenAI's.
            price: Of the model's tokens.
            limits: Requests and tokens a minute.
            breaker: When all are held back.
            retries: Bounds of one request.
            clock: Seconds.
            sleep: Waits for that many seconds.
            chance: Where the jitter of the back-off comes from.
        Raises:
            ValueError: for a base URL that is none.
            Refused: if there is no key, unless the server is on this machine.
        """
        self._connection = Connection(base_url)
        self.price = price or Price()
        self.counters = Counters()
        self._limits = limits or Limits()
        self._breaker = breaker or Breaker()
        self._retries = retries or Retries()
        self._clock, self._sleep = clock, sleep
        self._chance = chance or random.Random()

    @property
    def url(self) -> str:
        """The server's address, without a password."""
        return self._connection.url

    async def __aenter__(self) -> 'Client':
        self._connection.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def ask(self, asked: Request, drain: Drain | None = None) -> Reply:
        """Asks until there is an answer or no hope.

        Args:
            asked: The request.
            drain: Ends the waiting when it begins.
        Returns:
            The answer, or a reply with an error for a request that was given up.
        Raises:
            Refused: if the server refuses what every request would ask.
            Unreachable: if the server does not answer anybody for too long.
        """
        drain, begun, state = drain or Drain(), self._clock(), _Asking(asked.body)
        try:
            answered = await self._until_answered(asked, state, drain)
        except Failure as failure:
            text, reason, error = '', None, str(failure)
        else:
            text, reason, error = answered.text, answered.finish_reason, ''
        return Reply(
            asked.index,
            text,
            reason,
            state.prompt_tokens,
            state.completion_tokens,
            self.price.cost(state.prompt_tokens, state.completion_tokens),
            error,
            sent=None if state.body is asked.body else state.body,
            usage=state.usage,
            attempts=state.attempts,
            seconds=self._clock() - begun,
        )

    async def _until_answered(self, asked: Request, state: _Asking, drain: Drain) -> Answer:
        """Attempts within the bounds; the last failure is raised."""
        while True:
            reserved = prompt_tokens(state.body) + answer_tokens(state.body)
            with drain.waits():
                await self._limits.acquire(reserved)
                self.counters.paused = self._breaker.is_open
                probe = await self._breaker.enter()
            begun, used = self._clock(), 0
            try:
                answered = await self._attempt(asked.endpoint, state)
                used = self._pay(state, answered.usage, answered.text)
                self._breaker.succeeded()
                return answered
            except Failure as failure:
                if failure.usage:
                    used = self._pay(state, failure.usage, '')
                delay = self._after(failure, state, probe, self._clock() - begun)
            finally:
                self._limits.settle(reserved, used)
                self._breaker.leave(probe)
                self.counters.paused = self._breaker.is_open
            if delay:
                with drain.waits():
                    await self._sleep(delay)

    async def _attempt(self, endpoint: str, state: _Asking) -> Answer:
        """Sends the request once."""
        state.attempts += 1
        try:
            async with asyncio.timeout(self._retries.attempt_timeout):
                content = await self._connection.post(endpoint, state.body)
        except TimeoutError:
            content = None
        if content is None:
            # Raised out here, it brings no exception of the library along.
            raise Failure('time-out', answered=False)
        return read_answer(content)

    def _after(self, failure: Failure, state: _Asking, probe: bool, took: float) -> float:
        """What follows a failed attempt.

        Returns:
            Seconds to wait before the next.
        Raises:
            Failure: the same, if there is to be no next one.
            Unreachable: if there is to be none for anybody.
        """
        if failure.action != 'retry':
            # The server answered, and well; this request alone is at fault.
            self._breaker.succeeded()
            if failure.action == 'shorten' and self._shorten(state):
                self.counters.retries[failure.reason] += 1
                return 0.0
            raise failure
        asked = retry_after(failure.headers)
        self._breaker.failed(failure, asked, self.url)
        if probe:
            # It asked for all: that the server is still down says nothing about this request.
            self.counters.retries[failure.reason] += 1
            return 0.0
        state.failures += 1
        state.spent += took
        delay = self._retries.delay(state.failures, asked, self._chance)
        late = state.spent + delay > self._retries.deadline
        if late or state.failures >= self._retries.attempts:
            raise failure
        state.spent += delay
        self.counters.retries[failure.reason] += 1
        return delay

    def _shorten(self, state: _Asking) -> bool:
        """Lowers the body's max_tokens, if it may be lowered once more."""
        name = next((n for n in ('max_tokens', 'max_completion_tokens') if state.body.get(n)), '')
        if not name or state.shortenings >= self._retries.shortenings:
            return False
        tokens = int(state.body[name] * 0.8)
        if tokens < FEWEST_TOKENS:
            return False
        state.shortenings += 1
        state.body = state.body | {name: tokens}
        return True

    def _pay(self, state: _Asking, usage: dict[str, Any], text: str) -> int:
        """Counts what an attempt took: as the server counted, or else our estimate."""
        tokens = counted_tokens(usage)
        if tokens is None:
            tokens = prompt_tokens(state.body), text_tokens(text)
        state.usage = usage
        state.prompt_tokens += tokens[0]
        state.completion_tokens += tokens[1]
        self.counters.prompt_tokens += tokens[0]
        self.counters.completion_tokens += tokens[1]
        self.counters.cost_usd += self.price.cost(*tokens)
        return sum(tokens)
