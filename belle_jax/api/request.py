"""What is asked of a server, and what came of it."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

# What is reserved for an answer whose length the request does not bound, in tokens.
UNBOUNDED = 4096


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


def _text(content: Any) -> str:
    """A message's content, or a prompt, which both may be a text or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return ''.join(part if isinstance(part, str) else _part(part) for part in content)
    return ''


def _part(part: Any) -> str:
    return str(part.get('text', '')) if isinstance(part, dict) else ''
