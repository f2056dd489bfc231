"""The line that tells how a run goes while it goes."""

import asyncio
import time

from belle_jax.api import Counters
from belle_jax.progress import Line, duration
from belle_jax.synthesis.harvest import Harvest


class Live:
    """Rows kept and rejected, requests, tokens, money and the time left."""

    def __init__(
        self, harvest: Harvest, counters: Counters, count: int | None, requests: int | None
    ) -> None:
        """
        Args:
            harvest: The rows so far.
            counters: Of the client.
            count: Rows that are enough.
            requests: How many there are to make, where that is known.
        """
        self._harvest, self._counters = harvest, counters
        self._count, self._requests = count, requests
        self._line, self._begun = Line(), time.monotonic()
        # From here on the rate counts: replies from the journal come at once.
        self._first: tuple[float, float] | None = None

    async def run(self) -> None:
        """Shows the line again and again, until it is cancelled."""
        while True:
            await asyncio.sleep(0.5)
            if self._line.due:
                self._line.show(self.text())

    def end(self) -> None:
        """Leaves the last line, if there was one."""
        if self._line.said:
            self._line.show(self.text(last=True), last=True)

    def text(self, last: bool = False) -> str:
        """Such as 'kept 120/1,000 · left 0:04:10 · 8 in flight · … · rejected 30 (refusal 30)'."""
        harvest, counters = self._harvest, self._counters
        wanted = f'/{self._count:,}' if self._count else ''
        parts = [f'kept {len(harvest.kept):,}{wanted}']
        if not last and (left := self._left()):
            parts.append(f'left {left}')
        parts.append(f'{counters.in_flight} in flight')
        parts.append(f'{counters.prompt_tokens + counters.completion_tokens:,} tokens')
        if counters.cost_usd:
            parts.append(f'${counters.cost_usd:,.2f}')
        if counters.paused:
            parts.append('waiting for the server')
        if harvest.rejected:
            top = ', '.join(f'{name} {n:,}' for name, n in harvest.rejected.most_common(3))
            parts.append(f'rejected {harvest.rejected.total():,} ({top})')
        if retried := counters.retries.total():
            reason, _ = counters.retries.most_common(1)[0]
            parts.append(f'{retried:,} retries (most: {reason})')
        return ' · '.join(parts)

    def _left(self) -> str:
        """The time that is left at the rate since the first new reply."""
        done = self._done()
        now = time.monotonic()
        if not self._counters.asked or done is None:
            return ''
        if self._first is None:
            self._first = now, done
            return ''
        begun, before = self._first
        if done <= before:
            return ''
        return duration((now - begun) / (done - before) * (1 - done))

    def _done(self) -> float | None:
        """The fraction of the work that is done."""
        fractions = []
        if self._count:
            fractions.append(len(self._harvest.kept) / self._count)
        if self._requests:
            fractions.append(len(self._harvest.points) / self._requests)
        return min(1.0, max(fractions)) if fractions else None
