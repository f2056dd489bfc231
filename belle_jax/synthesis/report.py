"""The page that a run ends with: one HTML file that shows what was kept, rejected and paid.

It asks for nothing from elsewhere and runs no script, and what the model wrote is escaped: a page
about generated text must not be written by it.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from belle_jax.files import WholeText
from belle_jax.pages.charts import (
    bars,
    compact,
    escape,
    histogram,
    lines,
    percent,
    sunburst,
)
from belle_jax.synthesis import report_statistics as statistics
from belle_jax.synthesis.report_statistics import Point, RowStatistics, Sample
from belle_jax.synthesis.report_style import STYLE

VERBS = 24  # shown with a bar each
NARROWEST = 0.004  # share of the rows, of a word in the outer ring
SAMPLES = 8
TURNS = 6  # shown of a sample
LONGEST = 1500  # characters of a sample's text
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


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
    """

    title: str
    settings: Sequence[tuple[str, object]]
    rejected: Mapping[str, int]
    series: Sequence[Point]
    rows: Iterable[Mapping[str, Any]]
    why: Mapping[str, str] = dataclasses.field(default_factory=dict)
    threshold: float | None = 0.7
    measure: str = 'ROUGE-L F1'


def write(path: str | pathlib.Path, data: ReportData) -> None:
    """Writes the page; it appears under its name when it is complete, and replaces an older one.

    Args:
        path: The HTML file.
        data: What it shows.
    Raises:
        ValueError: the file cannot be written.
    """
    # Half a character, which JSON's escapes can give, is shown as the sign for one.
    text = page(data).encode('utf-8', errors='replace').decode('utf-8')
    with WholeText(path) as file:
        file.write(text)


def page(data: ReportData) -> str:
    """The page as text."""
    rows = statistics.count(data.rows, SAMPLES)
    size, ends = statistics.stretches(data.series)
    of_rows = [_asked_for(rows), _sizes(rows, data)] if rows.rows else []
    sections = [
        _tiles(rows, data),
        *of_rows,
        _course(size, ends),
        _rejected(data),
        _settings(data),
        _samples(rows.samples),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<title>{escape(data.title)}</title><style>{STYLE}</style></head>\n'
        f'<body><main><h1>{escape(data.title)}</h1>\n' + '\n'.join(sections) + '\n</main></body>'
        '</html>\n'
    )


def _tiles(rows: RowStatistics, data: ReportData) -> str:
    end = data.series[-1] if data.series else Point(0, 0, 0, 0, 0, 0.0)
    tokens = end.prompt_tokens + end.completion_tokens
    tiles = [
        (f'{rows.rows:,}', 'rows kept'),
        (f'{end.replies:,}', 'replies used'),
        (percent(end.kept / end.candidates) if end.candidates else '–', 'of all tasks kept'),
        (f'{end.kept / end.replies:.2f}' if end.replies else '–', 'rows kept per reply'),
        (compact(tokens), f'tokens, {compact(end.completion_tokens)} of them answers'),
        (_usd(end.usd) if end.usd else '–', 'paid' if end.usd else 'no price known'),
    ]
    if end.usd and end.kept:
        tiles.append((_usd(1000 * end.usd / end.kept), 'per 1,000 rows'))
    cards = (
        f'<div class="card tile"><b>{escape(number)}</b><span>{escape(what)}</span></div>'
        for number, what in tiles
    )
    return f'<section class="tiles">{"".join(cards)}</section>'


def _asked_for(rows: RowStatistics) -> str:
    listed = [(w, n) for w, n in rows.verbs.most_common() if not w.endswith(statistics.OTHERS)]
    listed = [(word or '(empty)', n, '') for word, n in listed]
    rest = rows.rows - sum(n for _, n, _ in listed[:VERBS])
    note = (
        f'{len(listed):,} different words; {percent(rest / max(rows.rows, 1))} of the rows are not '
        'shown. A row counts for the first common verb of its instruction, found in a list without '
        'splitting the text into words; a question counts for its question word (吗: yes or no). '
        'In languages with spaces it is the first word.'
    )
    words = f'<div class="columns">{bars(listed[:VERBS], rows.rows)}</div>'
    cards = [_card('The words of the instructions', words, note, 'whole')]
    if rows.categories:
        groups = rows.categories.most_common()
        tree = [(name, size, _parts(rows, name)) for name, size in groups]
        categories = bars([(name, n, '') for name, n in groups], rows.rows, hues=True)
        note = 'Inside the categories, outside the words of their instructions; pale: rarer words.'
        cards = [_card('Categories', categories, ''), _card('Both', sunburst(tree), note), *cards]
    return f'<h2>What is asked for</h2><div class="grid2">{"".join(cards)}</div>'


def _parts(rows: RowStatistics, category: str) -> list[tuple[str, int]]:
    """The words of a category that a ring has room for."""
    verbs = rows.verbs_of[category].most_common()
    parts = [(w, n) for w, n in verbs if not w.endswith(statistics.OTHERS)]
    return [(word, n) for word, n in parts if n >= NARROWEST * rows.rows]


def _sizes(rows: RowStatistics, data: ReportData) -> str:
    cards = []
    for name, counts in rows.lengths.items():
        number = sum(counts.values())
        if not number:
            continue
        note = f'{number:,} rows, median {statistics.median(counts):,}'
        if name == 'input':
            note += f'; {rows.rows - number:,} rows have none'
        chart = histogram(statistics.bins(counts), 'characters')
        cards.append(_card(f'Length: {name}', chart, note))
    if rows.similarities:
        binned = statistics.even_bins(rows.similarities)
        chart = histogram(binned, f'{data.measure} to the nearest earlier row', data.threshold)
        mean = sum(rows.similarities) / len(rows.similarities)
        note = f'Kept rows alone: mean {mean:.2f}, maximum {max(rows.similarities):.2f}.'
        if data.threshold is not None:
            note += ' From the dashed line on rows are rejected.'
        cards.append(_card('Similarity', chart, note))
    if max(rows.questions, default=0) > 1:
        chart = histogram(statistics.bins(rows.questions), 'questions')
        note = 'The lengths are those of the first question, and of all answers together.'
        cards.append(_card('Turns of conversations', chart, note))
    return f'<h2>Lengths and similarity</h2><div class="grid2">{"".join(cards)}</div>'


def _course(size: int, ends: Sequence[Point]) -> str:
    if not ends:
        return ''
    start = Point(0, 0, 0, 0, 0, 0.0)
    steps = list(zip([start, *ends], ends))
    kept = [
        (b.replies, (b.kept - a.kept) / (b.candidates - a.candidates))
        for a, b in steps
        if b.candidates > a.candidates
    ]
    label = f'replies, in stretches of {size:,}'
    cards = [_card('Share of tasks kept', lines([('kept', 'a', kept)], label, percent), '')]
    if ends[-1].usd:
        now = [
            (b.replies, 1000 * (b.usd - a.usd) / (b.kept - a.kept))
            for a, b in steps
            if b.kept > a.kept
        ]
        whole = [(b.replies, 1000 * b.usd / b.kept) for b in ends if b.kept]
        curves = [('in this stretch', 'b', now), ('since the beginning', 'a', whole)]
        cards.append(_card('Cost of 1,000 kept rows', lines(curves, label, _usd), ''))
    sent = [(b.replies, b.prompt_tokens) for b in (start, *ends)]
    written = [(b.replies, b.completion_tokens) for b in (start, *ends)]
    curves = [('prompts', 'b', sent), ('completions', 'a', written)]
    cards.append(_card('Tokens', lines(curves, 'replies', compact), ''))
    rows = [(b.replies, b.kept) for b in (start, *ends)]
    cards.append(_card('Rows kept', lines([('rows', 'c', rows)], 'replies', compact), ''))
    return f'<h2>Over time</h2><div class="grid2">{"".join(cards)}</div>'


def _rejected(data: ReportData) -> str:
    reasons = sorted(data.rejected.items(), key=lambda item: (-item[1], item[0]))
    total = sum(data.rejected.values())
    items = [(reason, n, data.why.get(reason, '')) for reason, n in reasons if n]
    shown = bars(items, total)
    note = f'{total:,} pieces of replies; point at a reason for why.' if total else ''
    return (
        '<h2>Rejected</h2>'
        f'<div class="card wide rejected">{shown}<p class="note">{escape(note)}</p></div>'
    )


def _settings(data: ReportData) -> str:
    cells = ''.join(
        f'<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>' for name, value in data.settings
    )
    return f'<h2>Settings</h2><div class="card"><table>{cells}</table></div>' if cells else ''


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ''
    articles = []
    for row in samples:
        category = f'<span class="tag">{escape(row.category)}</span>' if row.category else ''
        if row.similarity is not None:
            category += f'<span>similarity {row.similarity:.2f}</span>'
        texts = ''.join(
            f'<dt>{escape(name)}</dt><dd dir="auto">{escape(_shortened(text))}</dd>'
            for name, text in row.turns[:TURNS]
        )
        if len(row.turns) > TURNS:
            texts += f'<dt></dt><dd class="note">{len(row.turns) - TURNS} more turns</dd>'
        header = f'<header>{category}</header>' if category else ''
        articles.append(f'<article class="card row">{header}<dl>{texts}</dl></article>')
    return f'<h2>A few rows, drawn by lot</h2>{"".join(articles)}'


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f'{text[:LONGEST]}… ({len(text) - LONGEST:,} characters more)'


def _card(title: str, content: str, note: str, kind: str = '') -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ''
    return f'<div class="card {kind}"><h3>{escape(title)}</h3>{content}{said}</div>'


def _usd(amount: float) -> str:
    if amount >= 100:
        return f'${amount:,.0f}'
    return f'${amount:.2f}' if amount >= 0.095 else f'${amount:.2g}'
