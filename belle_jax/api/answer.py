"""Reading the body of a response: an answer, or why there is none in it."""

import json
from dataclasses import dataclass
from typing import Any

from belle_jax.api.errors import Failure


@dataclass(frozen=True)
class Answer:
    """What a response holds: its text, why that ended, and what the server counted."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any]


def read(content: bytes) -> Answer:
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


def counted(usage: dict[str, Any]) -> tuple[int, int] | None:
    """The tokens that a server counted.

    Args:
        usage: As it came.
    Returns:
        Tokens of prompt and answer, or None where it did not count.
    """
    numbers = [usage.get(name) or 0 for name in ('prompt_tokens', 'completion_tokens')]
    if not any(numbers) or not all(isinstance(n, int | float) for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


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
