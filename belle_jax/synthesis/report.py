"""The page that a run ends with: one HTML file that shows what was kept, rejected and paid.

It asks for nothing from elsewhere and runs no script, and what the model wrote is escaped: a page
about generated text must not be written by it.
"""

import dataclasses
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from belle_jax.files import WholeText
from belle_jax.pages.page import bars, compact, histogram, lines, percent, render, sunburst
from belle_jax.progress import usd
from belle_jax.synthesis.report_statistics import (
    OTHERS,
    Point,
    RowStatistics,
    bins,
    count,
    even_bins,
    median,
    stretches,
)

VERBS = 24  # shown with a bar each
NARROWEST = 0.004  # share of the rows, of a word in the outer ring
SAMPLES = 8
TURNS = 6  # shown of a sample


@dataclasses.dataclass
class ReportData:
    """What a report is made of.

    Attributes:
        title: The page's heading.
        settings: Names and values, in the order to show.
        rejected: Rejected pieces of replies by reason.
        series: The run's course, in order; every reply or every so many.
        rows: Kept rows of any layout, with category and similarity where there are any; iterated
            over once.
        why: For people, a sentence for a reason.
        threshold: The similarity from which on a row was rejected; None: not shown.
        measure: What the similarity is, such as 'ROUGE-L F1, characters'.
        replies: Of the journal that all this was made from, with those that were given up.
    """

    title: str
    settings: Sequence[tuple[str, object]]
    rejected: Mapping[str, int]
    series: Sequence[Point]
    rows: Iterable[Mapping[str, Any]]
    why: Mapping[str, str] = dataclasses.field(default_factory=dict)
    threshold: float | None = 0.7
    measure: str = 'ROUGE-L F1'
    replies: int = 0


def write(path: str | pathlib.Path, data: ReportData) -> None:
    """Writes the page, whole or not at all; an older one is replaced.

    Raises:
        ValueError: the file cannot be written.
    """
    # Half a character, which JSON's escapes can give, is shown as the sign for one.
    text = page(data).encode('utf-8', errors='replace').decode('utf-8')
    with WholeText(path) as file:
        file.write(text)


def replies(path: pathlib.Path) -> int:
    """Of how many replies a page says that it was made; 0 where there is none that does."""
    if not path.is_file():
        return 0
    with path.open('rb') as file:
        found = re.search(rb'<meta name="replies" content="(\d+)">', file.read(1000))
    return int(found[1]) if found else 0


def page(data: ReportData) -> str:
    """The page as text."""
    rows = count(data.rows, SAMPLES)
    asked, sizes = (_asked_for(rows), _sizes(rows, data)) if rows.rows else ([], [])
    reasons = sorted(data.rejected.items(), key=lambda item: (-item[1], item[0]))
    rejections = sum(data.rejected.values())
    return render(
        'report.jinja',
        replies=data.replies,
        title=data.title,
        tiles=_tiles(rows, data),
        charts=[
            ('What is asked for', asked),
            ('Lengths and similarity', sizes),
            ('Over time', _course(*stretches(data.series))),
        ],
        rejected=bars([(r, n, data.why.get(r, '')) for r, n in reasons if n], rejections),
        rejections=rejections,
        settings=data.settings,
        samples=rows.samples,
        turns=TURNS,
    )


class Card(NamedTuple):
    """A chart with what stands around it."""

    title: str
    chart: Markup
    note: str = ''
    kind: str = ''


def _tiles(rows: RowStatistics, data: ReportData) -> list[tuple[str, str]]:
    end = data.series[-1] if data.series else Point()
    tokens = end.prompt_tokens + end.completion_tokens
    tiles = [
        (f'{rows.rows:,}', 'rows kept'),
        (f'{end.replies:,}', 'replies used'),
        (percent(end.kept / end.candidates) if end.candidates else '–', 'of all tasks kept'),
        (f'{end.kept / end.replies:.2f}' if end.replies else '–', 'rows kept per reply'),
        (compact(tokens), f'tokens, {compact(end.completion_tokens)} of them answers'),
        (usd(end.usd) if end.usd else '–', 'paid' if end.usd else 'no price known'),
    ]
    if end.usd and end.kept:
        tiles.append((usd(1000 * end.usd / end.kept), 'per 1,000 rows'))
    return tiles


def _asked_for(rows: RowStatistics) -> list[Card]:
    listed = [(word or '(empty)', n, '') for word, n in _words(rows.verbs)]
    rest = rows.rows - sum(n for _, n, _ in listed[:VERBS])
    note = (
        f'{len(listed):,} different words; {percent(rest / max(rows.rows, 1))} of the rows are not '
        'shown. A row counts for the first common verb of its instruction, found in a list without '
        'splitting the text into words; a question counts for its question word (吗: yes or no). '
        'In languages with spaces it is the first word.'
    )
    words = bars(listed[:VERBS], rows.rows)
    cards = [Card('The words of the instructions', words, note, 'whole columns')]
    if rows.categories:
        groups, least = rows.categories.most_common(), NARROWEST * rows.rows
        tree = [
            (name, size, [(word, n) for word, n in _words(rows.verbs_of[name]) if n >= least])
            for name, size in groups
        ]
        categories = bars([(name, n, '') for name, n in groups], rows.rows, hues=True)
        note = 'Inside the categories, outside the words of their instructions; pale: rarer words.'
        cards = [Card('Categories', categories), Card('Both', sunburst(tree), note), *cards]
    return cards


def _words(verbs: Counter[str]) -> list[tuple[str, int]]:
    """Those that are words, the most frequent first."""
    return [(word, n) for word, n in verbs.most_common() if not word.endswith(OTHERS)]


def _sizes(rows: RowStatistics, data: ReportData) -> list[Card]:
    cards = []
    for name, counts in rows.lengths.items():
        if not (number := sum(counts.values())):
            continue
        note = f'{number:,} rows, median {median(counts):,}'
        if name == 'input':
            note += f'; {rows.rows - number:,} rows have none'
        chart = histogram(bins(counts), 'characters')
        cards.append(Card(f'Length: {name}', chart, note))
    if rows.similarities:
        binned = even_bins(rows.similarities)
        chart = histogram(binned, f'{data.measure} to the nearest earlier row', data.threshold)
        mean = sum(rows.similarities) / len(rows.similarities)
        note = f'Kept rows alone: mean {mean:.2f}, maximum {max(rows.similarities):.2f}.'
        if data.threshold is not None:
            note += ' From the dashed line on rows are rejected.'
        cards.append(Card('Similarity', chart, note))
    if max(rows.questions, default=0) > 1:
        chart = histogram(bins(rows.questions), 'questions')
        note = 'The lengths are those of the first question, and of all answers together.'
        cards.append(Card('Turns of conversations', chart, note))
    return cards


def _course(size: int, ends: Sequence[Point]) -> list[Card]:
    if not ends:
        return []
    course = [Point(), *ends]
    steps = list(zip(course, ends))
    kept = [
        (b.replies, (b.kept - a.kept) / (b.candidates - a.candidates))
        for a, b in steps
        if b.candidates > a.candidates
    ]
    label = f'replies, in stretches of {size:,}'
    cards = [Card('Share of tasks kept', lines([('kept', 'a', kept)], label, percent))]
    if ends[-1].usd:
        now = [
            (b.replies, 1000 * (b.usd - a.usd) / (b.kept - a.kept))
            for a, b in steps
            if b.kept > a.kept
        ]
        whole = [(b.replies, 1000 * b.usd / b.kept) for b in ends if b.kept]
        curves = [('in this stretch', 'b', now), ('since the beginning', 'a', whole)]
        cards.append(Card('Cost of 1,000 kept rows', lines(curves, label, usd)))
    sent = [(point.replies, point.prompt_tokens) for point in course]
    written = [(point.replies, point.completion_tokens) for point in course]
    curves = [('prompts', 'b', sent), ('completions', 'a', written)]
    cards.append(Card('Tokens', lines(curves, 'replies', compact)))
    rows = [(point.replies, point.kept) for point in course]
    return [*cards, Card('Rows kept', lines([('rows', 'c', rows)], 'replies', compact))]
