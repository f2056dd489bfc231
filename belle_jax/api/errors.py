"""Failures by what to do about them: ask again, give this request up, or stop the whole run."""

from collections.abc import Mapping
from typing import Any


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
