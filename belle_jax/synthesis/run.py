"""A run of data generation: asks, keeps a journal, harvests, and writes what came of it.

All files but the journal are made from the journal, and are made anew by each run.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from belle_jax.api import Budget, Client, Journal, Request, session
from belle_jax.data.row_file import new_row_file
from belle_jax.disk import sentence
from belle_jax.files import sweep
from belle_jax.progress import Progress
from belle_jax.synthesis import report
from belle_jax.synthesis.decisions import ByHand, DecisionLog
from belle_jax.synthesis.harvest import Files, Harvest, Result
from belle_jax.synthesis.kinds import Kind
from belle_jax.texts.filters import Row, Rule
from belle_jax.texts.similarity import Similarity

# Data go in by their hash: a journal says which they were, not what they were.
HASHED = ('seeds', 'rows', 'categories', 'characters')
# A prompt goes in as its text, as a file may be changed, and fields of a request as the first
# requests; two decide rows alone.
LEFT_OUT = ('prompt_file', 'model_name', 'longest_answer', 'apart', 'request')
FIRST = 3  # requests that go in whole


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
        overwrite: Whether rows may be replaced by none, or by those of a smaller journal.
    """

    kind: Kind
    rules: Sequence[Rule]
    similarity: Callable[[], Similarity | None]
    count: int | None
    concurrency: int = 16
    budget: Budget | None = None
    give_up_after: int = 0
    overwrite: bool = False


def generate(job: Job, files: Files, client: Client) -> Result:
    """Asks until there are enough rows, and writes them.

    However it ends, the files are what `rebuild` makes of the journal.

    Args:
        job: What to do.
        files: Where to; the journal is gone on with.
        client: Asks the server.
    Returns:
        The harvest and why the run ended.
    Raises:
        ValueError, OSError: the journal belongs to another configuration or run, rows would be
            lost, a file cannot be written, or the server could not be asked and the journal is
            empty: no file is written.
    """
    with _journal(job, files) as journal, _harvest(job, files, journal) as harvest:
        outcome, error = 'interrupted', None
        try:
            outcome = asyncio.run(_ask(job, harvest, client, journal))
        except (KeyboardInterrupt, asyncio.CancelledError):
            pass
        except (ValueError, OSError) as caught:
            outcome, error = 'error', caught
        if outcome == 'enough' and not harvest.enough:
            outcome = 'barren'
        _use(journal, harvest)
        if error and not harvest.points:
            raise error
        return Result(harvest, outcome, journal, client.counters.changes, error)


def rebuild(job: Job, files: Files) -> Result:
    """As `generate`, from the journal alone, which must exist: with these rules, asking nothing.

    Nothing is given up, as nothing is spent.

    Raises:
        ValueError: there is no such journal, it belongs to another configuration or run, rows would
            be lost, or a file cannot be written.
    """
    if not files.journal.is_file():
        raise ValueError(
            f'{files.journal} is not there: --rebuild makes rows again from a journal. Name it '
            'with --journal.'
        )
    with _journal(job, files) as journal, _harvest(job, files, journal) as harvest:
        _use(journal, harvest)
        return Result(harvest, 'rebuilt', journal)


def _journal(job: Job, files: Files) -> Journal:
    try:
        files.journal.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f'the folder {files.journal.parent} cannot be made'
        raise ValueError(sentence(error, what)) from error
    return Journal(files.journal, journal_settings(job.kind))


def journal_settings(kind: Kind) -> dict[str, Any]:
    """Everything from which a kind makes the request of an index, for `Journal`.

    Two runs may share a journal if these are equal, as JSON. Filters, similarity, count and budget
    are none of them.
    """
    settings = kind.settings
    values = {name: value for name, value in vars(settings).items() if name not in LEFT_OUT}
    for name in HASHED:
        values[name] = f'{len(values[name]):,}, {_hash(values[name])}' if values[name] else ''
    values['model'] = settings.model
    # What other versions of this program would ask differently, with the same settings.
    first = [kind.body(index) for index in range(min(FIRST, kind.requests or FIRST))]
    asked = {'kind': kind.name, 'prompt': _hash(kind.text)}
    return asked | values | {'first requests': _hash(first)}


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def _use(journal: Journal, harvest: Harvest) -> None:
    """Uses the replies behind those that the harvest has, as long as rows are wanted."""
    progress = Progress('Reading the journal', 'replies')
    count = len(harvest.points)
    for reply in itertools.islice(journal.replies(), count, None):
        if harvest.enough:
            break
        harvest.use(reply)
        count += 1
        progress.show(count, count / max(len(journal), count))
    progress.end(count)


async def _ask(job: Job, harvest: Harvest, client: Client, journal: Journal) -> str:
    if harvest.ended:
        return 'enough'
    return await session.ask(
        _requests(job.kind),
        client,
        journal,
        harvest.standing,
        concurrency=job.concurrency,
        use=harvest.use,
        more=harvest.needs,
        budget=job.budget,
    )


def _requests(kind: Kind) -> Iterator[Request]:
    numbers = itertools.count() if kind.requests is None else range(kind.requests)
    return (Request(index, kind.body(index)) for index in numbers)


@contextlib.contextmanager
def _harvest(job: Job, files: Files, journal: Journal) -> Iterator[Harvest]:
    """A harvest whose rejected pieces go to their file as they come; the rest is written after."""
    # The journal's lock says that no other run writes them.
    for path in (files.output, files.rejected, files.report, files.harvested):
        sweep(path.parent, path.name.__eq__)
    paid = (
        not job.overwrite and files.output.is_file() and files.output.stat().st_size > len('[]\n')
    )
    if paid and journal.stored < (before := max(1, report.replies(files.report))):
        raise ValueError(
            f'{files.journal} has {journal.stored:,} of at least {before:,} replies that '
            f'{files.output} was made from: rows would be lost. Put the journal back, give another '
            '--output, or --overwrite.'
        )
    by_hand = ByHand(DecisionLog(files.decisions).decided)
    with (
        # Opened before anything is asked: what cannot be written is told before it is paid for.
        new_row_file(files.output, overwrite=True) as keep,
        new_row_file(files.rejected, overwrite=True) as reject,
    ):

        def refuse(piece: Row) -> None:
            by_hand.see(piece)
            reject(piece)

        pool = job.similarity()
        harvest = Harvest(job.kind, pool, job.count, job.rules, refuse, job.give_up_after)
        yield harvest
        if by_hand.changes:
            with new_row_file(files.harvested, overwrite=True) as note:
                for row in harvest.kept:
                    note(row)
        rows = list(by_hand.rows(harvest.kept))
        if paid and not (rows or harvest.kept):  # a person may drop them all
            raise ValueError(
                f'not one row came of {len(harvest.points):,} replies, and {files.output} has '
                'rows, which would be lost: give other filters, another --output, or --overwrite.'
            )
        for row in rows:
            keep(row)
        harvest.by_hand = str(by_hand)
    if not by_hand.changes:
        files.harvested.unlink(missing_ok=True)
    report.write(files.report, _report(job, harvest, rows, journal.stored))


def _report(job: Job, harvest: Harvest, rows: Iterable[Row], replies: int) -> report.ReportData:
    shown = ('model', 'api', 'language', 'seed', 'temperature', 'top_p', 'max_tokens')
    similarity = harvest.similarity
    return report.ReportData(
        title=f'Instruction data: {job.kind.name}',
        settings=[(name, getattr(job.kind.settings, name)) for name in shown],
        rejected=harvest.rejected,
        series=harvest.points,
        rows=map(_with_similarity, rows),
        why={rule.name: rule.why for rule in job.rules},
        threshold=similarity.threshold if similarity else None,
        measure=similarity.measure if similarity else '',
        replies=replies,
    )


def _with_similarity(row: Row) -> Row:
    """The row with the score of its nearest neighbour as a field of its own."""
    scores = list(row.get('most_similar_instructions', {}).values())
    return row | {'similarity': scores[0]} if scores else row
