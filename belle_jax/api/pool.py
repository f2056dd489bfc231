"""Many requests at a time: asked in order of their index, used in that order, journaled between."""

import asyncio
import concurrent.futures
from collections.abc import Callable, Iterator

from belle_jax.api.client import Client
from belle_jax.api.cost import Budget
from belle_jax.api.journal import Journal
from belle_jax.api.pacing import Drain
from belle_jax.api.request import Reply, Request

# Replies that `use` gets before the event loop hears of it again.
MOST_PER_BATCH = 64


async def ask_all(
    requests: Iterator[Request],
    client: Client,
    journal: Journal,
    *,
    concurrency: int,
    use: Callable[[Reply], bool],
    more: Callable[[int], bool] | None = None,
    budget: Budget | None = None,
    ahead: int | None = None,
    grace: float = 10.0,
) -> str:
    """Asks until there is enough, no money, or nothing to ask.

    A reply is used once it is in the journal and all before it were used. Where the run ends early
    what is at the server is awaited and journaled. Numbers for a live line: `client.counters`.

    Args:
        requests: With rising index; taken one by one, as there is room.
        client: Asks one.
        journal: Has the replies of earlier runs, which are taken from there.
        concurrency: Requests in flight.
        use: Called in a thread with each reply in order of the index, given-up ones too; True
            when that is enough.
        more: Whether another request is worth its money, with that many replies that are not used
            yet; asked again whenever replies were used. None: always.
        budget: Bounds what the journal's requests take. A request is reserved with its longest
            answer; what attempts take that come to nothing may go beyond it.
        ahead: Replies that may wait for one before them; by default 4 * concurrency.
        grace: Seconds for what is in flight when the run is cancelled or fails.
    Returns:
        Why it ended: 'enough', 'budget' or 'exhausted'.
    Raises:
        ValueError: for an index that does not rise, or a budget in USD without a price.
        Refused, Unreachable, OSError: from client and journal.
    """
    budget = budget or Budget()
    if budget.usd is not None and not client.price:
        raise ValueError(
            f'a budget of {budget.usd:g} USD needs to know what the model costs: give the price of '
            'a million tokens of the prompt and of the answer (--usd_per_million_input and '
            '--usd_per_million_output), or a budget in tokens.'
        )
    if concurrency < 1:
        raise ValueError(f'concurrency={concurrency} asks nothing: give 1 or more.')
    ahead = max(concurrency, 4 * concurrency if ahead is None else ahead)
    work = _AskAll(requests, client, journal, use, more, budget, concurrency, ahead)
    return await work.run(grace)


class _AskAll:
    """One call of `ask_all`. Everything but `_use` runs in the event loop."""

    def __init__(
        self,
        requests: Iterator[Request],
        client: Client,
        journal: Journal,
        use: Callable[[Reply], bool],
        more: Callable[[int], bool] | None,
        budget: Budget,
        concurrency: int,
        ahead: int,
    ) -> None:
        self._requests, self._client, self._journal = requests, client, journal
        self._user, self._more, self._budget = use, more, budget
        self._done = 0  # replies used by this run
        self._free, self._room = asyncio.Semaphore(concurrency), asyncio.Semaphore(ahead)
        self._counters, self._drain = client.counters, Drain()
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._workers: list[asyncio.Task[None]] = []
        self._asking: set[asyncio.Task[None]] = set()
        # Positions count requests from 0; replies wait here until all before them are there.
        self._ready: dict[int, Reply] = {}
        self._total: int | None = None
        self._outcome = 'exhausted'
        self._changed, self._landed = asyncio.Event(), asyncio.Event()
        self._used = asyncio.Event()
        self._reserved_tokens, self._reserved_usd = 0, 0.0
        self._thread = concurrent.futures.ThreadPoolExecutor(1, 'use')
        self._using: asyncio.Future[bool] | None = None

    async def run(self, grace: float) -> str:
        """Runs to the end of whatever kind, and leaves nothing behind."""
        self._workers += [self._start(self._feed()), self._start(self._consume())]
        try:
            try:
                outcome = await self._end
            except BaseException:
                await self._wind_down(grace)
                raise
            await self._wind_down(None)
            return outcome
        finally:
            # A second interruption, or what outlived the grace.
            for task in [*self._workers, *self._asking]:
                task.cancel()
            await asyncio.gather(*self._workers, *self._asking, return_exceptions=True)
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self, work) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._failed)
        return task

    def _failed(self, task: asyncio.Task[None]) -> None:
        """The first failure of any task ends the run."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._end.done():
            self._end.set_exception(error)
            # At once: others may be about to begin.
            self._halt()

    def _halt(self) -> None:
        """Lets nothing new begin."""
        self._drain.begin()
        for worker in self._workers:
            worker.cancel()

    async def _wind_down(self, grace: float | None) -> None:
        """Awaits what is at the server, and the call of `use` that is under way."""
        self._halt()
        if self._asking:
            done, _ = await asyncio.wait(self._asking, timeout=grace)
            failures = [t.exception() for t in done if not t.cancelled() and t.exception()]
            if failures and grace is None:
                raise failures[0] or RuntimeError
        if self._using is not None:
            await asyncio.wait([self._using])

    async def _feed(self) -> None:
        """Takes requests in order: from the journal, or to the server."""
        position, last = 0, None
        for request in self._requests:
            if last is not None and request.index <= last:
                raise ValueError(f'request {request.index} comes after {last}: indices must rise.')
            last = request.index
            await self._room.acquire()
            if reply := self._journal.get(request):
                self._counters.from_journal += 1
                self._deliver(position, reply)
            else:
                await self._free.acquire()
                await self._worth_it(position)
                tokens, usd = self._client.most(request)
                if not await self._reserve(tokens, usd):
                    self._outcome = 'budget'
                    break
                task = self._start(self._ask(position, request, tokens, usd))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            position += 1
        self._total = position
        self._changed.set()

    async def _worth_it(self, position: int) -> None:
        """Waits while what is under way may well be enough."""
        while self._more and position > self._done and not self._more(position - self._done):
            self._used.clear()
            await self._used.wait()

    async def _reserve(self, tokens: int, usd: float) -> bool:
        """Sets aside what a request may take; waits while what is in flight may leave enough."""
        limit = self._budget
        while True:
            spent, lost = self._journal.spent(), self._journal.lost
            # What was answered before a price was given costs as much as the rest.
            paid = max(spent.cost_usd, self._client.price.cost(*spent[:2]))
            dollars = paid + lost.cost_usd + self._reserved_usd + usd
            over = limit.usd is not None and dollars > limit.usd
            if limit.tokens is not None:
                taken = spent.tokens + lost.tokens + self._reserved_tokens
                over = over or taken + tokens > limit.tokens
            if not over:
                self._reserved_tokens += tokens
                self._reserved_usd += usd
                return True
            if not self._asking:
                return False
            self._landed.clear()
            await self._landed.wait()

    async def _ask(self, position: int, request: Request, tokens: int, usd: float) -> None:
        counters = self._counters
        counters.asked += 1
        counters.in_flight += 1
        flight = self._journal.flight(request, tokens, usd)
        try:
            reply = await self._client.ask(request, self._drain, flight)
            await asyncio.wrap_future(self._journal.put(request, reply, flight))
            counters.given_up += bool(reply.error)
            counters.answered += not reply.error
            self._deliver(position, reply)
        finally:
            counters.in_flight -= 1
            self._reserved_tokens -= tokens
            self._reserved_usd -= usd
            self._free.release()
            # Not before this task has left `_asking`, which says whether there is hope.
            asyncio.get_running_loop().call_soon(self._landed.set)

    def _deliver(self, position: int, reply: Reply) -> None:
        self._ready[position] = reply
        self._changed.set()

    async def _consume(self) -> None:
        """Gives replies to `use`, in order, and ends the run when it has enough."""
        position = 0
        while self._total is None or position < self._total:
            batch: list[Reply] = []
            while position in self._ready and len(batch) < MOST_PER_BATCH:
                batch.append(self._ready.pop(position))
                position += 1
            if not batch:
                self._changed.clear()
                await self._changed.wait()
                continue
            loop = asyncio.get_running_loop()
            self._using = loop.run_in_executor(self._thread, self._use, batch)
            # The thread cannot be interrupted, so its future is not cancelled either.
            if await asyncio.shield(self._using):
                self._outcome = 'enough'
                break
            self._done += len(batch)
            self._used.set()
            for _ in batch:
                self._room.release()
        if not self._end.done():
            self._end.set_result(self._outcome)

    def _use(self, batch: list[Reply]) -> bool:
        """Runs in the thread."""
        for reply in batch:
            if self._drain.begun:
                return False
            self._counters.used += 1
            if self._user(reply):
                return True
        return False
