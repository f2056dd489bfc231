"""A run of data generation: asks, keeps a journal, harvests, and writes what came of it.

    OUTPUT                      the rows that were kept
    OUTPUT stem.rejected.jsonl  the others: request, reason, text
    OUTPUT stem.journal.sqlite  every request and reply
    OUTPUT stem.report.html     plots

All but the journal are made from the journal, and are made anew by each run.
"""

import asyncio
import contextlib
import dataclasses
import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from belle_jax.api import Budget, Client, Journal, Request, ask_all
from belle_jax.synthesis import report
from belle_jax.synthesis.candidate import Row
from belle_jax.synthesis.filters import Rule
from belle_jax.synthesis.harvest import Harvest, Similarity
from belle_jax.synthesis.journal_settings import journal_settings
from belle_jax.synthesis.kinds import Kind
from belle_jax.synthesis.live import Live
from belle_jax.synthesis.report_statistics import Point
from belle_jax.synthesis.row_writer import rows_file

OUTCOMES = {
    'enough': 'there are enough rows',
    'exhausted': 'all requests are made',
    'budget': 'the budget is reached: raise it and run the same command to go on',
    'interrupted': 'it was interrupted: run the same command to go on',
    'rebuilt': 'the journal has no more, or there are enough rows',
}


@dataclasses.dataclass(frozen=True)
class Files:
    """Where a run's files lie."""

    output: Path
    journal: Path
    rejected: Path
    report: Path

    @classmethod
    def beside(cls, output: Path, journal: Path | None = None) -> 'Files':
        """The usual names."""
        return cls(
            output,
            journal or output.with_suffix('.journal.sqlite'),
            output.with_suffix('.rejected.jsonl'),
            output.with_suffix('.report.html'),
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """What a run does.

    Attributes:
        kind: What is asked, and how replies are parsed.
        rules: Filters, in order.
        similarity: Makes an index with the seed tasks in it, or None where rows are not compared.
        count: Rows that are enough; None for all that there are.
        concurrency: Requests in flight.
        budget: Of the journal altogether.
        give_up_after: Replies in a row without a row that end the run; 0: none do.
    """

    kind: Kind
    rules: Sequence[Rule]
    similarity: Callable[[], Similarity | None]
    count: int | None
    concurrency: int = 16
    budget: Budget | None = None
    give_up_after: int = 0


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a run."""

    harvest: Harvest
    outcome: str
    error: Exception | None = None

    def account(self, files: Files) -> str:
        """What came of it, in lines for people."""
        harvest = self.harvest
        end = harvest.points[-1] if harvest.points else Point(0, 0, 0, 0, 0, 0.0)
        tokens = end.prompt_tokens + end.completion_tokens
        paid = f', ${end.usd:,.2f}' if end.usd else ''
        lines = [
            f'{len(harvest.kept):,} rows of {end.replies:,} replies ({tokens:,} tokens{paid}).',
            *(f'  rejected, {name}: {n:,}' for name, n in harvest.rejected.most_common()),
        ]
        if self.outcome in OUTCOMES:
            lines.append(f'It ended because {OUTCOMES[self.outcome]}.')
        lines += [f'Report: {files.report}', f'Rejected: {files.rejected}', f'Rows: {files.output}']
        return '\n'.join(lines)


def generate(job: Job, files: Files, client: Client) -> Result:
    """Asks until there are enough rows, and writes them.

    Args:
        job: What to do.
        files: Where to; the journal is gone on with.
        client: Asks the server.
    Returns:
        The harvest and why the run ended: a word of OUTCOMES, or an error, which the caller says;
        the files are written all the same.
    Raises:
        ValueError: the journal belongs to another configuration or run, or a file cannot be
            written.
    """
    with Journal(files.journal, journal_settings(job.kind)) as journal:
        outcome, error = 'interrupted', None
        with _harvest(job, files) as harvest:
            try:
                with _terminated_as_interrupted():
                    outcome = asyncio.run(_ask(job, harvest, client, journal))
            except KeyboardInterrupt:
                pass
            except (ValueError, OSError) as caught:
                outcome, error = 'error', caught
        return Result(harvest, outcome, error)


def rebuild(job: Job, files: Files) -> Result:
    """Makes the files again from the journal alone, with these rules; asks nothing.

    Args:
        job: As in `generate`.
        files: The journal must exist.
    Returns:
        As `generate`.
    Raises:
        ValueError: there is no such journal, or it belongs to another configuration.
    """
    if not files.journal.is_file():
        raise ValueError(
            f'{files.journal} is not there: --rebuild makes rows again from a journal. Name it '
            'with --journal.'
        )
    with (
        Journal(files.journal, journal_settings(job.kind)) as journal,
        _harvest(job, files) as harvest,
    ):
        if not harvest.enough:
            for reply in journal.replies():
                if harvest.use(reply):
                    break
    return Result(harvest, 'rebuilt')


async def _ask(job: Job, harvest: Harvest, client: Client, journal: Journal) -> str:
    if harvest.enough:
        return 'enough'
    live = Live(harvest, client.counters, job.count, job.kind.requests)
    async with client:
        showing = asyncio.ensure_future(live.run())
        try:
            return await ask_all(
                _requests(job.kind),
                client,
                journal,
                concurrency=job.concurrency,
                use=harvest.use,
                # Before the first replies nobody knows how many rows each gives.
                more=lambda n: harvest.needs(n) if harvest.points else n < job.concurrency,
                budget=job.budget,
            )
        finally:
            showing.cancel()
            live.end()


def _requests(kind: Kind) -> Iterator[Request]:
    numbers = itertools.count() if kind.requests is None else range(kind.requests)
    return (Request(index, kind.body(index)) for index in numbers)


@contextlib.contextmanager
def _harvest(job: Job, files: Files) -> Iterator[Harvest]:
    """A harvest whose rejected pieces go to their file as they come; the rest is written after."""
    with rows_file(files.rejected, overwrite=True) as reject:
        harvest = Harvest(
            job.kind, job.similarity(), job.count, job.rules, reject, job.give_up_after
        )
        yield harvest
    with rows_file(files.output, overwrite=True) as write:
        for row in harvest.kept:
            write(row)
    report.write(files.report, _report(job, harvest))


def _report(job: Job, harvest: Harvest) -> report.ReportData:
    settings = journal_settings(job.kind)
    shown = ('model', 'api', 'language', 'seed', 'temperature', 'top_p', 'max_tokens')
    similarity = harvest.similarity
    return report.ReportData(
        title=f'Instruction data: {job.kind.name}',
        settings=[(name, settings[name]) for name in shown if settings.get(name) is not None],
        rejected=harvest.rejected,
        series=harvest.points,
        rows=map(_with_similarity, harvest.kept),
        why={rule.name: rule.why for rule in job.rules},
        threshold=similarity.threshold if similarity else None,
        measure=similarity.measure if similarity else '',
    )


def _with_similarity(row: Row) -> Row:
    """The row with the score of its nearest neighbour as a field of its own."""
    scores = list(row.get('most_similar_instructions', {}).values())
    return row | {'similarity': scores[0]} if scores else row


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: what is in flight is journaled, the rows are written."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
