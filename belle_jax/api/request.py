"""What is asked of a server, and what came of it: an answer, or a failure and its remedy."""

import hashlib
import json
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
        """What names this request in a journal.

        Returns:
            64 hex digits: the SHA-256 of the index and the body, whatever the order of its fields.
        """
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


@dataclass(frozen=True)
class Answer:
    """What a response holds: its text, why that ended, and what the server counted."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any]


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


def read_answer(content: bytes) -> Answer:
    """Reads the body of a response with status 200.

    Args:
        content: The bytes, of either endpoint.
    Returns:
        The first choice's text.
    Raises:
        Failure: for half a JSON, a page, no choices, or an error that was sent as a success.
    """
    try:
        body = json.loads(content)
    except ValueError:
        raise Failure('bad JSON', _start(content)) from None
    if not isinstance(body, dict):
        raise Failure('bad JSON', _start(content))
    usage = body.get('usage')
    usage = usage if isinstance(usage, dict) else {}
    choices = body.get('choices')
    if not choices and body.get('error'):
        said = json.dumps(body['error'], ensure_ascii=False)[:200]
        raise Failure('error in reply', said, usage=usage)
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Failure('empty choices', _start(content), usage=usage)
    choice = choices[0]
    message = choice.get('message')
    text = message.get('content') if isinstance(message, dict) else choice.get('text')
    if isinstance(text, list):
        text = ''.join(str(p.get('text') or '') for p in text if isinstance(p, dict))
    # A content of null is an answer: the model said nothing, or a filter took it away.
    reason = choice.get('finish_reason')
    return Answer(_whole(str(text or '')), None if reason is None else str(reason), usage)


def _whole(text: str) -> str:
    """The text with half characters marked: a cut emoji may come as a lone surrogate, which no
    file and no database takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
    return text


def _start(content: bytes) -> str:
    return ' '.join(content[:120].decode('utf-8', 'replace').split())
