"""A program's talk with a server: a live line while it asks, signals heeded, and what it took."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from belle_jax import signals
from belle_jax.api.client import Client
from belle_jax.api.journal import Journal
from belle_jax.api.pool import ask_all
from belle_jax.api.request import Counters, Request
from belle_jax.progress import Line, duration, usd


class Standing(NamedTuple):
    """How far a program is.

    Attributes:
        said: In words, such as 'kept 120/1,000'.
        done: Fraction of the whole, by which the time left is reckoned; None if it is not known.
        found: What else is worth a word, at the end of the line.
    """

    said: str
    done: float | None
    found: str = ''


async def ask(
    requests: Iterator[Request],
    client: Client,
    journal: Journal,
    standing: Callable[[], Standing],
    **options: Any,
) -> str:
    """As `ask_all`, whose other options it takes, with a line that says how far it is.

    A signal to end cancels it where it waits, not anywhere: what arrived is journaled and used.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    live = Live(standing, client.counters)
    async with client:
        showing = asyncio.ensure_future(live.run())
        try:
            with signals.heeding(lambda: loop.call_soon_threadsafe(task.cancel)):
                return await ask_all(requests, client, journal, **options)
        finally:
            showing.cancel()
            live.end()


class Live:
    """How far a program is, with requests, tokens, money and the time left."""

    def __init__(self, standing: Callable[[], Standing], counters: Counters) -> None:
        self._standing, self._counters = standing, counters
        self._line = Line()
        # From here on the rate counts: replies from the journal come at once.
        self._first: tuple[float, float] | None = None

    async def run(self) -> None:
        """Shows the line again and again, until it is cancelled."""
        told = 0
        while True:
            await asyncio.sleep(0.5)
            for change in self._counters.changes[told:]:
                self._line.say(change)
                told += 1
            if self._line.due:
                self._line.show(self.text())

    def end(self) -> None:
        """Leaves the last line, if there was one."""
        if self._line.said:
            self._line.show(self.text(last=True), last=True)

    def text(self, last: bool = False) -> str:
        """Such as 'kept 120/1,000 · left 0:04:10 · 8 in flight · … · rejected 30 (refusal 30)'."""
        standing, counters = self._standing(), self._counters
        parts = [standing.said]
        if not last and (left := self._left(standing.done)):
            parts.append(f'left {left}')
        parts.append(f'{counters.in_flight} in flight')
        parts.append(f'{counters.prompt_tokens + counters.completion_tokens:,} tokens')
        if counters.cost_usd:
            parts.append(usd(counters.cost_usd))
        if counters.paused:
            parts.append('waiting for the server')
        if standing.found:
            parts.append(standing.found)
        if retried := counters.retries.total():
            parts.append(f'{retried:,} retries (newest: {counters.newest[:60]})')
        return ' · '.join(parts)

    def _left(self, done: float | None) -> str:
        """The time that is left at the rate since the first new reply."""
        now = time.monotonic()
        if not self._counters.asked or done is None:
            return ''
        begun, before = self._first = self._first or (now, done)
        if done <= before:
            return ''
        return duration((now - begun) / (done - before) * (1 - done))


def account(journal: Journal) -> list[str]:
    """What a journal has and took, in lines for people."""
    spent, lost = journal.spent(), journal.lost
    lines = []
    if lost.requests:
        most = f', {usd(lost.cost_usd)}' if lost.cost_usd else ''
        lines.append(
            f'Requests under way when earlier runs were killed: {lost.requests:,}, which may '
            f'have taken {lost.tokens:,} tokens{most} more; they are asked again.'
        )
    if journal.damaged:
        lines.append(f'Damaged in the journal, and asked again: {journal.damaged:,} replies.')
    paid = f', {usd(spent.cost_usd)}' if spent.cost_usd else ''
    lines.append(
        f'Journal: {journal.path} ({len(journal):,} answers, {spent.tokens:,} tokens{paid})'
    )
    return lines
