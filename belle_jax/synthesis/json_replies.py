"""Replies that are JSON although labels were asked for: an array, lines, or an object with a list.

What stands around it (a fence, a sentence before it) is passed over. Of a reply that was cut every
whole object is read.
"""

import json
import re
from typing import Any, NamedTuple

# An object at the beginning of a line, of an array there, or of a list's item.
FIRST = re.compile(r'^[ \t]*(?:[-*•]|\d+[.、)])?[ \t]*(?:\[\s*)?(?=\{\s*")', re.M)
LIST = re.compile(r'\{\s*"[^"{}]*"\s*:\s*\[')  # an object that holds a list of the objects
DECODER = json.JSONDecoder(strict=False)  # models write line ends into strings


class JsonPiece(NamedTuple):
    """One object of a reply, or what could not be read: then why, as rejected pieces say it."""

    value: dict[str, Any]
    rejected: str
    text: str


def pieces(text: str, keys: str, label: re.Pattern[str]) -> list[JsonPiece]:
    """The objects of a reply that have certain keys.

    Args:
        text: The reply.
        keys: The keys of which each has one at least, as the alternatives of a pattern.
        label: What opens a field or a turn otherwise: a reply that does it so before its first
            object is not JSON, and may hold some.
    Returns:
        The pieces in order; none if the reply is not JSON.
    """
    first = FIRST.search(text)
    quoted = re.compile(rf'"(?:{keys})"\s*:', re.I)
    if not first or label.search(text[: first.end()]) or not quoted.search(text, first.end()):
        return []
    found: list[JsonPiece] = []
    last, at = first.end(), first.end()
    while at >= 0:
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            value, end = {}, at + 1
        if any(re.fullmatch(keys, key, re.I) for key in value):
            found += _unread(text[last:at], 'broken JSON')
            found.append(JsonPiece(value, '', text[at:end]))
            last = end
        else:
            end = at + 1  # the objects are inside, or something is broken
        at = text.find('{', end)
    return found + _unread(text[last:], 'truncated')


def _unread(text: str, reason: str) -> list[JsonPiece]:
    text = LIST.sub('', text)
    begun = text.find('{')
    return [JsonPiece({}, reason, text[begun:])] if begun >= 0 else []


def as_text(value: Any) -> str:
    """A value as a field of a row has it."""
    if value is None:
        return ''
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
