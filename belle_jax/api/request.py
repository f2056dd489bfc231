"""What is asked of a server, what comes of it, and what that takes: tokens and money."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple


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


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    Attributes:
        index: The request's.
        text: The answer; '' for a request that was given up.
        finish_reason: As the server says: stop, length, content_filter, ...
        prompt_tokens: Paid for, all attempts together.
        completion_tokens: Likewise.
        cost_usd: Of these tokens.
        error: Why the request was given up; '' for an answer. It is asked again by the next run.
        sent: The body that was answered, where it is not the request's: with fewer max_tokens.
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
    sent: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    usage: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    attempts: int = field(default=1, compare=False)
    seconds: float = field(default=0.0, compare=False)


class Refused(ValueError):
    """The server refuses what every request would ask: key, model, parameters. The run stops."""


class Unreachable(ConnectionError):
    """The server has not answered for too long. The run stops; what it has is in the journal."""


class Failure(Exception):
    """One attempt that came to nothing.

    Attributes:
        reason: A few words, the name of its counter.
        headers: Of the server's response, for Retry-After; empty where there was none.
        usage: What the server counted, as such attempts are paid for.
        answered: Whether the server answered at all.
        action: retry, shorten (ask with fewer max_tokens) or give up.
    """

    def __init__(
        self,
        reason: str,
        detail: str = '',
        *,
        headers: Mapping[str, str] | None = None,
        usage: dict[str, Any] | None = None,
        answered: bool = True,
        action: str = 'retry',
    ) -> None:
        super().__init__(f'{reason}: {detail}' if detail else reason)
        self.reason, self.action = reason, action
        self.headers, self.usage, self.answered = headers or {}, usage or {}, answered


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


# --- what requests take ---------------------------------------------------------------------------

# What is reserved for an answer whose length the request does not bound, in tokens.
UNBOUNDED = 4096


@dataclass(frozen=True)
class Budget:
    """What a journal may take altogether, its earlier runs included; None for any."""

    usd: float | None = None
    tokens: int | None = None


class Spent(NamedTuple):
    """What a journal's requests took, those that were given up included."""

    prompt_tokens: int
    completion_tokens: int
    cost_usd: float

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Price:
    """USD for a million tokens of the prompt and of the answer; both 0 where nothing is known."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for that many tokens."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6

    def __bool__(self) -> bool:
        return bool(self.input or self.output)


# OpenAI's list prices as last published for these names. A dated name (gpt-4o-2024-05-13) may cost
# something else, so names are matched as a whole.
PRICES = {
    'gpt-3.5-turbo': Price(0.5, 1.5),
    'gpt-3.5-turbo-instruct': Price(1.5, 2.0),
    'gpt-4': Price(30.0, 60.0),
    'gpt-4-turbo': Price(10.0, 30.0),
    'gpt-4.1': Price(2.0, 8.0),
    'gpt-4.1-mini': Price(0.4, 1.6),
    'gpt-4.1-nano': Price(0.1, 0.4),
    'gpt-4o': Price(2.5, 10.0),
    'gpt-4o-mini': Price(0.15, 0.6),
}


def price(model: str, input: float | None = None, output: float | None = None) -> Price:
    """The price of a model.

    Args:
        model: Its name.
        input: USD for a million tokens of the prompt; wins over the table.
        output: Likewise, of the answer.
    Returns:
        The price, which is false where it is not known: say so, as costs are then 0.
    Raises:
        ValueError: for a negative price, or one of the two alone for a model not in the table.
    """
    if model not in PRICES and (input is None) != (output is None):
        raise ValueError(
            f'only one price is given for model {model!r}, whose price is not known: give the '
            f'price of a million tokens both of the prompt and of the answer.'
        )
    known = PRICES.get(model, Price())
    given = {'input': input, 'output': output}
    found = replace(known, **{side: usd for side, usd in given.items() if usd is not None})
    if found.input < 0 or found.output < 0:
        raise ValueError(f'a price of {min(found.input, found.output)} USD: prices are 0 or more.')
    return found


def prompt_tokens(body: dict[str, Any]) -> int:
    """A cautious guess at a prompt's tokens: half its bytes, so 1.5 for a Chinese character.

    Args:
        body: Of a request.
    Returns:
        Tokens, for limits and budgets before the server has counted.
    """
    if 'messages' not in body:
        return text_tokens(_text(body.get('prompt', '')))
    # Each message is wrapped in a few tokens of its own.
    return 3 + sum(text_tokens(_text(m.get('content'))) + 4 for m in body['messages'])


def text_tokens(text: str) -> int:
    """The same guess for a text."""
    return -(-len(text.encode('utf-8', 'replace')) // 2)


def answer_tokens(body: dict[str, Any]) -> int:
    """The longest answer that a body allows, in tokens: all its choices together."""
    longest = body.get('max_tokens') or body.get('max_completion_tokens') or UNBOUNDED
    return int(longest) * int(body.get('n') or 1)


def counted_tokens(usage: dict[str, Any]) -> tuple[int, int] | None:
    """The tokens of prompt and answer in a server's usage; None where it did not count."""
    numbers = [usage.get(name) or 0 for name in ('prompt_tokens', 'completion_tokens')]
    if not any(numbers) or not all(isinstance(n, int | float) for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def _text(content: Any) -> str:
    """A message's content, or a prompt, which both may be a text or a list of parts."""
    if isinstance(content, list):
        return ''.join(map(_text, content))
    if isinstance(content, dict):
        return str(content.get('text', ''))
    return content if isinstance(content, str) else ''
