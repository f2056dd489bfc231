"""The client: one request becomes one reply, through whatever the server does on the way."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from belle_jax.api.answer import Answer, read_answer
from belle_jax.api.asking import Asking
from belle_jax.api.connection import Connection
from belle_jax.api.cost import FEWEST_TOKENS, Price, answer_tokens, paid_tokens, prompt_tokens
from belle_jax.api.dialect import Dialect
from belle_jax.api.doubt import CONTROL, REFUSALS, Doubt, control
from belle_jax.api.journal import Flight
from belle_jax.api.pacing import Breaker, Drain, Limits, Retries, retry_after
from belle_jax.api.request import Counters, Failure, Refused, Reply, Request

# Failures of a request in a row, with the same words, after which it may itself be their cause.
SAME = 3
SLOW = 'give it more time with --timeout, or ask for less with --max_tokens.'


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
        self.url = self._connection.url  # without a password
        self.price = price or Price()
        self.counters = Counters()
        self._limits = limits or Limits()
        self._breaker = breaker or Breaker()
        self._retries = retries or Retries()
        self._clock, self._sleep = clock, sleep
        self._chance = chance or random.Random()
        self._dialect, self._doubt = Dialect(), Doubt()

    async def __aenter__(self) -> 'Client':
        self._connection.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def ask(
        self, asked: Request, drain: Drain | None = None, flight: Flight | None = None
    ) -> Reply:
        """Asks until there is an answer or no hope.

        Args:
            asked: The request.
            drain: Ends the waiting when it begins.
            flight: Is told before the request is sent, and if it comes to nothing.
        Returns:
            The answer, or a reply with an error for a request that was given up.
        Raises:
            Refused: if the server refuses what every request would ask.
            Unreachable: if the server does not answer anybody for too long.
        """
        begun, state = self._clock(), Asking(asked, flight, drain or Drain())
        answered, error = Answer('', None), ''
        try:
            with self._doubt.under_way():
                answered = await self._until_answered(state)
        except Failure as failure:
            error = str(failure)
        except asyncio.CancelledError:
            # What attempts took that came to nothing stays in the journal.
            if state.at_server or not state.prompt_tokens:
                if flight and not state.at_server:
                    flight.withdraw()
                raise
            error = 'interrupted'
        return Reply(
            asked.index,
            answered.text,
            answered.finish_reason,
            state.prompt_tokens,
            state.completion_tokens,
            self.price.cost(state.prompt_tokens, state.completion_tokens),
            error,
            answered.thoughts,
            sent=None if state.sent is asked.body else state.sent,
            usage=state.usage,
            attempts=state.attempts,
            seconds=self._clock() - begun,
        )

    def most(self, asked: Request) -> tuple[int, float]:
        """The most that a request takes, in tokens and USD, if its server keeps to its fields."""
        body = self._dialect.spoken(asked.body)
        prompt, answer = prompt_tokens(body), answer_tokens(body)
        return prompt + answer, self.price.cost(prompt, answer)

    async def _until_answered(self, state: Asking) -> Answer:
        """Attempts within the bounds; the last failure is raised."""
        while True:
            body = state.sent = self._dialect.spoken(state.body)
            reserved = prompt_tokens(body) + answer_tokens(body)
            with state.drain.waits():
                await self._limits.acquire(reserved)
                self.counters.paused = self._breaker.is_open
                probe = await self._breaker.enter()
            begun, used = self._clock(), 0
            try:
                answered = await self._attempt(state, body)
                used = self._answered(state, body, answered)
                return answered
            except Failure as failure:
                if failure.usage:
                    used = self._pay(state, body, failure.usage, '')
                self._failed(failure)
                failed = failure
            finally:
                took = None if probe else self._clock() - begun
                self._limits.settle(reserved, used)
                self._breaker.leave(probe)
                self.counters.paused = self._breaker.is_open
            delay = await self._next(failed, state, body, took)
            self.counters.retries[failed.reason] += 1
            if delay:
                with state.drain.waits():
                    await self._sleep(delay)

    async def _attempt(self, state: Asking, body: dict[str, Any]) -> Answer:
        if state.flight and not state.attempts:
            await state.flight.begin()
        state.attempts += 1
        # A model that is slow, or is only being loaded, gets twice the time the next time.
        seconds = min(self._retries.attempt_timeout * 2**state.slow, self._retries.deadline)
        content = None
        with contextlib.suppress(TimeoutError), state.being_at_server():
            async with asyncio.timeout(seconds):
                content = await self._connection.post(state.asked.endpoint, body)
        if content is None:
            state.slow += 1
            # Raised out here, it brings no exception of the library along.
            raise Failure('time-out', f'no answer within {seconds:g} s', slow=True, advice=SLOW)
        return read_answer(content)

    def _answered(self, state: Asking, body: dict[str, Any], answered: Answer) -> int:
        """The server answered: tells all, and counts what it took."""
        self._breaker.succeeded()
        self._doubt.answered()
        return self._pay(state, body, answered.usage, answered.text + answered.thoughts)

    def _failed(self, failure: Failure) -> None:
        """Tells breaker and counters; a server that refuses is well."""
        self.counters.newest = str(failure)
        if failure.action == 'retry':
            self._breaker.failed(failure, retry_after(failure.headers), self.url)
        elif failure.action == 'refused':
            self._doubt.refusals += 1

    # --- what follows a failed attempt ------------------------------------------------------------

    async def _next(
        self, failure: Failure, state: Asking, sent: dict[str, Any], took: float | None
    ) -> float:
        """Seconds to wait before the next attempt, which may have another body.

        Args:
            took: Seconds of the attempt; None for a probe, which was made for all: that the server
                is still down says nothing about this request.
        Raises:
            Failure: the same, if there is to be no next attempt.
            Refused: if every request is refused.
        """
        if failure.action == 'give up':
            raise failure
        if failure.action == 'retry':
            delay = 0.0 if took is None else state.delay(failure, took, self._retries, self._chance)
            shorter = state.shorter(failure, self._retries)
            # Some servers tell a prompt's fault as their own.
            if not shorter or failure.reason[0] != '5':
                return delay
            if not state.refused and state.same >= SAME:
                state.refused = await self._others_are_answered(state)
            if not state.refused:
                return delay
        else:
            if (change := self._dialect.learn(failure, state.body, sent)) is not None:
                self.counters.changes += filter(None, [change])
                return 0.0
            await self._refused_alone(failure, state)
            shorter = state.shorter(failure, self._retries)
            if not shorter:
                raise failure
        state.body, state.shortenings = shorter, state.shortenings + 1
        state.failures = 0  # they are explained
        return 0.0

    async def _refused_alone(self, failure: Failure, state: Asking) -> None:
        """Returns once it is known that others are answered."""
        pause = 1.0
        while not state.refused:
            state.refused = await self._others_are_answered(state)
            if state.refused:
                return
            if self._doubt.refusals >= REFUSALS:
                raise Refused(
                    f'{self.url} refuses every request, even {CONTROL!r}: {failure}. Check the '
                    'model, the settings of sampling, and what the key may do.'
                )
            with state.drain.waits():
                await self._sleep(pause)
            pause *= 2

    async def _others_are_answered(self, state: Asking) -> bool:
        async def ask_control() -> bool:
            body = control(self._dialect.spoken(state.asked.body))
            with state.drain.waits():
                await self._limits.acquire(FEWEST_TOKENS)
            try:
                answered = await self._attempt(state, body)
            except Failure as failure:
                self._failed(failure)
                return False
            self._answered(state, body, answered)
            return True

        return await self._doubt.others_are_answered(ask_control, state.drain)

    def _pay(self, state: Asking, body: dict[str, Any], usage: dict[str, Any], text: str) -> int:
        prompt, answer = paid_tokens(body, usage, text)
        state.usage = usage
        for account in (state, self.counters):
            account.prompt_tokens += prompt
            account.completion_tokens += answer
        self.counters.cost_usd += self.price.cost(prompt, answer)
        return prompt + answer
