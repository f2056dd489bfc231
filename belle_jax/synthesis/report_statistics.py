"""What a report says about the kept rows and the course of a run, counted in one pass."""

import array
import collections
import dataclasses
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from belle_jax.synthesis.verbs import verb
from belle_jax.texts.filters import said

UNLABELLED = '(no category)'
OTHERS = '…'  # the end of a verb that is only an instruction's first two characters
REPLIES = 10  # of a stretch whose acceptance is shown, at least
STRETCHES = 40  # at most, in a plot


class Point(NamedTuple):
    """How far a run was after some reply; everything is counted from the beginning.

    Attributes:
        replies: Replies used.
        candidates: Rows that they held, rejected ones included.
        kept: Rows kept.
        prompt_tokens: Tokens sent.
        completion_tokens: Tokens received.
        usd: What it cost; 0 if no price is known.
    """

    replies: int
    candidates: int
    kept: int
    prompt_tokens: int
    completion_tokens: int
    usd: float


class Sample(NamedTuple):
    """A kept row, for people."""

    turns: tuple[tuple[str, str], ...]  # who or what, and the text
    category: str
    similarity: float | None


@dataclasses.dataclass
class RowStatistics:
    """What was counted of the kept rows.

    Attributes:
        rows: How many.
        categories: Rows by category; empty if no row has one.
        verbs: Rows by the word that stands for the instruction.
        verbs_of: The same by category.
        lengths: Characters of the first instruction, its input and all answers: how many rows have
            that many. Rows without input are not in `input`.
        questions: Questions of a conversation.
        similarities: Of the rows that have one.
        samples: A few rows, drawn evenly, always the same for the same rows.
    """

    rows: int = 0
    categories: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    verbs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    verbs_of: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    lengths: dict[str, collections.Counter[int]] = dataclasses.field(
        default_factory=lambda: {
            name: collections.Counter() for name in ('instruction', 'input', 'output')
        }
    )
    questions: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    similarities: array.array = dataclasses.field(default_factory=lambda: array.array('d'))
    samples: list[Sample] = dataclasses.field(default_factory=list)


def count(rows: Iterable[Mapping[str, Any]], samples: int) -> RowStatistics:
    """Counts rows of any layout, in one pass.

    Args:
        rows: The kept rows, with category and similarity where there are any.
        samples: How many rows to keep as examples.
    Returns:
        The counts.
    """
    found = RowStatistics()
    draw = random.Random(0)
    chosen: list[tuple[int, Mapping[str, Any]]] = []
    for row in rows:
        texts = said(dict(row))
        instruction = texts.questions[0] if texts.questions else ''
        category = str(row.get('category') or UNLABELLED)
        word = verb(instruction)
        found.categories[category] += 1
        found.verbs[word] += 1
        found.verbs_of.setdefault(category, collections.Counter())[word] += 1
        found.lengths['instruction'][len(instruction)] += 1
        found.lengths['output'][sum(map(len, texts.answers))] += 1
        found.questions[len(texts.questions)] += 1
        if texts.given:
            found.lengths['input'][len(texts.given)] += 1
        similarity = _similarity(row)
        if similarity is not None:
            found.similarities.append(similarity)
        # Reservoir sampling: every row has the same chance, however many there will be.
        place = found.rows if found.rows < samples else draw.randrange(found.rows + 1)
        if place < samples:
            chosen[place : place + 1] = [(found.rows, row)]
        found.rows += 1
    if set(found.categories) <= {UNLABELLED}:
        found.categories.clear()
    found.samples = [_sample(row) for _, row in sorted(chosen, key=lambda pair: pair[0])]
    return found


def stretches(points: Sequence[Point]) -> tuple[int, list[Point]]:
    """The course of a run at even distances.

    Args:
        points: In order; as many as there are.
    Returns:
        The replies of a stretch, a round number; the state at the end of each, a short last one
        included if there is nothing else or it is a quarter as long.
    """
    if not points:
        return REPLIES, []
    replies = points[-1].replies
    size = next(n for n in _round_numbers() if n >= REPLIES and replies <= STRETCHES * n)
    ends, due = [], size
    for point in points:
        if point.replies >= due:
            ends.append(point)
            due = (point.replies // size + 1) * size
    last = points[-1]
    if not ends or last.replies - ends[-1].replies >= size / 4:
        ends.append(last)
    return size, ends


def bins(counts: Mapping[int, int], most: int = 24) -> list[tuple[float, float, int]]:
    """Bins of even, round width for lengths, whose tail is long.

    Args:
        counts: How many rows have a length.
        most: Bins, the last one aside.
    Returns:
        For each bin its first length, the length that it ends before, and its rows. What lies above
        the 98th percentile is in a last bin that ends at infinity.
    """
    total, running, last = sum(counts.values()), 0, 0
    for length in sorted(counts):
        running, last = running + counts[length], length
        if running >= 0.98 * total:
            break
    width = next(w for w in _round_numbers() if (last + 1) / w <= most)
    number = math.ceil((last + 1) / width)
    heights = [0] * (number + 1)
    for length, rows in counts.items():
        heights[min(length // width, number)] += rows
    found: list[tuple[float, float, int]] = [
        (i * width, (i + 1) * width, n) for i, n in enumerate(heights[:-1])
    ]
    return [*found, (number * width, math.inf, heights[-1])] if heights[-1] else found


def even_bins(values: Sequence[float], number: int = 20) -> list[tuple[float, float, int]]:
    """Bins of similarities: from 0 to 1, or to the largest where a score goes beyond.

    Args:
        values: The scores.
        number: Bins.
    Returns:
        For each bin where it begins and ends, and its rows.
    """
    top = max(values, default=0)
    top = 1.0 if top <= 1 else float(math.ceil(top))
    heights = [0] * number
    for value in values:
        heights[max(0, min(int(value / top * number), number - 1))] += 1
    return [(i * top / number, (i + 1) * top / number, n) for i, n in enumerate(heights)]


def median(counts: Mapping[int, int]) -> int:
    """The median of counted lengths; 0 if there are none."""
    half, running = sum(counts.values()) / 2, 0
    for length in sorted(counts):
        running += counts[length]
        if running >= half:
            return length
    return 0


def _round_numbers() -> Iterable[int]:
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


def _similarity(row: Mapping[str, Any]) -> float | None:
    value = row.get('similarity')
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _sample(row: Mapping[str, Any]) -> Sample:
    texts = said(dict(row))
    if 'conversations' in row or 'messages' in row:
        turns = [('user', text) for text in texts.questions]
        answers = [('assistant', text) for text in texts.answers]
        mixed = [turn for pair in zip(turns, answers) for turn in pair]
        mixed += turns[len(answers) :]
    else:
        mixed = [('instruction', texts.questions[0]), ('input', texts.given)]
        mixed = [turn for turn in mixed if turn[1]] + [('output', texts.answers[0])]
    return Sample(tuple(mixed), str(row.get('category') or ''), _similarity(row))
