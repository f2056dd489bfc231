"""What is asked of a server, and what comes of it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        index: Its place in the run: replies are used in this order.
        body: Exactly what is sent, as JSON: model, messages or prompt, sampling settings.
    """

    index: int
    body: dict[str, Any]

    @property
    def endpoint(self) -> str:
        """'chat' for a body with messages, else 'completion'."""
        return 'chat' if 'messages' in self.body else 'completion'

    def key(self) -> str:
        """What names it in a journal: SHA-256 of index and body, whatever the order of fields."""
        text = json.dumps([self.index, self.body], sort_keys=True, separators=(',', ':'))
        return hashlib.sha256(text.encode()).hexdigest()


# Reasons that a whole answer ends with: OpenAI's and most servers', llama.cpp's and TGI's,
# Anthropic's. Every other one, known or not, is that of an answer that was cut.
WHOLE = frozenset({'stop', 'eos', 'eos_token', 'end_turn', 'stop_sequence'})


def is_whole(finish_reason: str | None, told: bool = False) -> bool:
    """Whether an answer that ended so has an end.

    Args:
        finish_reason: As the server says.
        told: Whether the server does give reasons: then an answer without one was cut.
    """
    return not told if finish_reason is None else finish_reason.lower() in WHOLE


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    Attributes:
        index: The request's.
        text: The answer; '' for a request that was given up.
        finish_reason: As the server says (stop, length, content_filter, ...); see `is_whole`.
        prompt_tokens: Paid for, all attempts together.
        completion_tokens: Likewise.
        cost_usd: Of these tokens.
        error: Why the request was given up; '' for an answer. It is asked again by the next run.
        thoughts: What the model thought before the answer, if the server gives it.
        sent: The body that was answered, where it is not the request's: with fewer max_tokens, or
            with the fields that the server takes.
        usage: What the server counted, as it came; {} where it counted nothing and the tokens
            are our estimate.
        attempts: How often it was sent.
        seconds: From the first attempt to the answer, waiting included.
    """

    index: int
    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    error: str = ''
    thoughts: str = field(default='', repr=False)
    sent: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    usage: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    attempts: int = field(default=1, compare=False)
    seconds: float = field(default=0.0, compare=False)


class Refused(ValueError):
    """The server refuses what every request would ask: key, model, parameters. The run stops."""


class Unreachable(ConnectionError):
    """The server has not answered for too long. The run stops; what it has is in the journal."""


ADVICE = 'check the address, or start again when the server is back.'


class Failure(Exception):
    """One attempt that came to nothing.

    Attributes:
        reason: A few words, the name of its counter.
        said: What the server said, or what happened.
        headers: Of the server's response, for Retry-After; empty where there was none.
        usage: What the server counted, as such attempts are paid for.
        action: retry, refused (by a server that may refuse all, or this request alone), give up.
        field: The field of the body that the server complains of, if it names one.
        advice: What a person may do if it is always so.
        slow: Whether the server took the request and was given too little time.
    """

    def __init__(
        self,
        reason: str,
        said: str = '',
        *,
        headers: Mapping[str, str] | None = None,
        usage: dict[str, Any] | None = None,
        action: str = 'retry',
        field: str = '',
        advice: str = '',
        slow: bool = False,
    ) -> None:
        super().__init__(f'{reason}: {said}' if said else reason)
        self.reason, self.said, self.action, self.field = reason, said, action, field
        self.headers, self.usage = headers or {}, usage or {}
        self.advice, self.slow = advice or ADVICE, slow


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
        newest: The newest failure, in words.
        changes: What is sent otherwise than it was asked for, as the server takes it only so.
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
    newest: str = ''
    changes: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    paused: bool = False
