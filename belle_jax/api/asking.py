"""One request on its way: what it has taken so far, and what it may still try."""

import asyncio
import contextlib
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from belle_jax.api.cost import FEWEST_TOKENS
from belle_jax.api.dialect import LENGTHS
from belle_jax.api.journal import Flight
from belle_jax.api.pacing import Drain, Retries, retry_after
from belle_jax.api.request import Failure, Request

# A refusal that may be one of length: shorter answers are asked for before it is given up.
MAY_BE_LENGTH = re.compile('token|length|long|context|size|413|长', re.I)


@dataclass
class Asking:
    """The state of one request.

    Attributes:
        asked: The request.
        flight: Its entry among the requests that are under way.
        drain: Ends its waiting.
        body: As it is to be asked, before `Dialect.spoken`.
        sent: As it was asked last.
        at_server: Whether it was sent and nothing has come of it yet.
        attempts: How often it was sent, the control question included.
        failures: Of these, those that count for `Retries`.
        slow: Of these, time-outs.
        said: What the last failure said.
        same: How many in a row said so.
        shortenings: How often its longest answer was lowered.
        refused: Whether it is known that this request alone is refused.
        spent: Seconds of attempts and pauses.
        prompt_tokens: Paid for.
        completion_tokens: Likewise.
        usage: What the server counted last.
    """

    asked: Request
    flight: Flight | None
    drain: Drain
    body: dict[str, Any] = field(init=False)
    sent: dict[str, Any] = field(init=False)
    at_server: bool = False
    attempts: int = 0
    failures: int = 0
    slow: int = 0
    said: str = ''
    same: int = 0
    shortenings: int = 0
    refused: bool = False
    spent: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usage: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.body = self.sent = self.asked.body

    @contextlib.contextmanager
    def being_at_server(self) -> Iterator[None]:
        """Around one attempt; whether one that is cancelled is paid for, nobody knows."""
        self.at_server = True
        try:
            yield
        finally:
            self.at_server = isinstance(sys.exception(), asyncio.CancelledError)

    def delay(
        self, failure: Failure, took: float, retries: Retries, chance: random.Random
    ) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            failure: That of the attempt.
            took: Seconds of the attempt.
            retries: The bounds.
            chance: Where the jitter comes from.
        Raises:
            Failure: the same, if the bounds are reached.
        """
        self.same = self.same + 1 if failure.said == self.said else 1
        self.said = failure.said
        self.failures += 1
        self.spent += took
        delay = retries.delay(self.failures, retry_after(failure.headers), chance)
        if self.spent + delay > retries.deadline or self.failures >= retries.attempts:
            raise failure
        self.spent += delay
        return delay

    def shorter(self, failure: Failure, retries: Retries) -> dict[str, Any] | None:
        """The body with a shorter answer; None if length is not at fault, or there is no room."""
        name = next((n for n in LENGTHS if self.body.get(n)), '')
        tried = self.shortenings >= retries.shortenings
        if not name or tried or not MAY_BE_LENGTH.search(str(failure)):
            return None
        tokens = int(self.body[name] * 0.8)
        return self.body | {name: tokens} if tokens >= FEWEST_TOKENS else None
