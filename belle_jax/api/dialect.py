"""The fields that one server takes: what it refuses by name is renamed or left out, once, and said.

Servers of one protocol differ: newer models of OpenAI's take `max_completion_tokens` where others
take `max_tokens`, and no `temperature`; strict ones take neither `stop` nor `logit_bias`.
"""

import re
from typing import Any

from belle_jax.api.request import Failure

# Without these there is no request.
NEEDED = {'model', 'messages', 'prompt'}
LENGTHS = ('max_tokens', 'max_completion_tokens')
# What stands around the name of a field in a sentence that complains of it: `temperature` and
# `stop` are words like others.
NAMED = (
    '["\'`‘“]{0}["\'`’”]',
    r'(?:parameter|argument|field|property|option)s?\W+{0}\b',
    r'\b{0}\W+(?:parameter|argument|field|property|option)',
    r':\s*{0}\W*$',
)


class Dialect:
    """What has been learnt of one server."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # by our name; '' where the field is left out

    def spoken(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body with the fields that the server takes; the same object if that is all of them."""
        if not self._names.keys() & body.keys():
            return body
        names = ((self._names.get(name, name), value) for name, value in body.items())
        return {name: value for name, value in names if name}

    def learn(self, failure: Failure, asked: dict[str, Any], sent: dict[str, Any]) -> str | None:
        """Learns from a refusal.

        Args:
            failure: The refusal.
            asked: The body before `spoken`.
            sent: The body that was refused.
        Returns:
            What changes, in words; '' if that was learnt meanwhile; None if nothing is to learn.
        """
        name = _named(failure, sent)
        if not name or (name in LENGTHS and _about_length(failure, sent[name])):
            return None
        ours = next((n for n in asked if self._names.get(n, n) == name), '')
        if self.spoken(asked) != sent:
            return ''
        other = LENGTHS[name == LENGTHS[0]]
        new = other if name in LENGTHS and ours == name else ''
        self._names[ours] = new
        how = f'is sent as {new}' if new else 'is left out'
        return f'{ours} {how}, as the server refuses {name} ({failure.said[:160]})'


def _named(failure: Failure, body: dict[str, Any]) -> str:
    """The field of a body that a refusal is about; '' where it names none, or several."""
    fields = body.keys() - NEEDED
    if failure.field:
        return failure.field if failure.field in fields else ''
    found = {
        name
        for name in fields
        if any(re.search(form.format(name), failure.said) for form in NAMED)
        or ('_' in name and re.search(rf'\b{name}\b', failure.said))
    }
    return found.pop() if len(found) == 1 else ''


def _about_length(failure: Failure, sent: Any) -> bool:
    """Whether a refusal of the longest answer means its value: then it says what is allowed."""
    return bool(set(re.findall(r'\d{2,}', failure.said)) - {str(sent)})
