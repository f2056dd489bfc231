"""Whether a refusal is one request's own, or would meet every request.

A server that refuses a request may mean this one (its filter, its length) or all of them (a model's
name, a key's rights). Their words for it are without end, so words do not decide: a refusal is one
request's own once another request has been answered after it. Where nobody else is under way a
small question is asked instead; when that is refused too, and again, nothing is asked any more.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from belle_jax.api.cost import FEWEST_TOKENS
from belle_jax.api.dialect import LENGTHS
from belle_jax.api.pacing import Drain

# Refusals in a row, without an answer between them, after which no request is believed in.
REFUSALS = 5
# What no server has a reason to refuse, if it answers anything.
CONTROL = '1+1=?'


def control(body: dict[str, Any]) -> dict[str, Any]:
    """The small question, asked in the way of another body."""
    chat = {'messages': [{'role': 'user', 'content': CONTROL}]}
    body = body | (chat if 'messages' in body else {'prompt': CONTROL})
    return body | {name: FEWEST_TOKENS for name in LENGTHS if name in body}


class Doubt:
    """Keeps account of who is under way, who is answered and who is refused.

    Attributes:
        refusals: Since the last answer.
    """

    def __init__(self) -> None:
        self.refusals = 0
        self._answers = self._under_way = self._in_doubt = 0
        self._news, self._control = asyncio.Event(), asyncio.Lock()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Around all attempts at one request."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._tell()

    def answered(self) -> None:
        """The server answered something."""
        self._answers, self.refusals = self._answers + 1, 0
        self._tell()

    async def others_are_answered(
        self, ask_control: Callable[[], Awaitable[bool]], drain: Drain
    ) -> bool:
        """Whether another request is answered from now on.

        Args:
            ask_control: Asks the small question, and says whether it was answered.
            drain: Ends the waiting, but not what is at the server.
        """
        before = self._answers
        self._in_doubt += 1
        self._tell()
        try:
            with drain.waits():
                while self._answers == before and self._under_way > self._in_doubt:
                    await self._news.wait()
                await self._control.acquire()
            try:
                return self._answers > before or await ask_control()
            finally:
                self._control.release()
        finally:
            self._in_doubt -= 1
            self._tell()

    def _tell(self) -> None:
        """Wakes whoever waits to see what becomes of others."""
        self._news.set()
        self._news = asyncio.Event()
