"""The charts of a report for which scores are counted: how many, by length, by size of data."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from belle_jax.judging import figures, statistics
from belle_jax.judging.results import Results
from belle_jax.pages import page, scores

BINS = 10  # of the histograms
GROUPS, IN_GROUP = 8, 5  # of answers by length, at most and at least
SIZE = re.compile(r'(\d[\d,]*(?:\.\d+)?)\s*([kKmM]?)')
UNITS = {'': 1.0, 'k': 1e3, 'm': 1e6}
AVERAGES = (
    ('average', 'average'),
    ('without math and code', 'average_without_math_and_code'),
)


def bounds(values: Mapping[str, Any]) -> scores.Bounds:
    """A figure and its interval; NaN is not known."""
    numbers = (values[key] for key in ('value', 'low', 'high'))
    value, low, high = (np.nan if number is None else number for number in numbers)
    return value, low, high


def histogram(values_q: np.ndarray, label: str) -> Markup:
    """How many questions have each tenth of the range from 0 to 1."""
    # A mean of three times 0.3 may be a little less than the border 0.3.
    values = np.round(values_q[np.isfinite(values_q)] * BINS, 6).astype(int)
    counts = np.bincount(np.minimum(values, BINS - 1), minlength=BINS)
    return page.histogram(
        [(i / BINS, (i + 1) / BINS, int(count)) for i, count in enumerate(counts)], label
    )


def spread(found: Results) -> np.ndarray:
    """The highest less the lowest score of each answer, NaN where there are not two."""
    known = np.isfinite(found.scores_qj)
    highest = np.where(known, found.scores_qj, -np.inf).max(axis=1)
    lowest = np.where(known, found.scores_qj, np.inf).min(axis=1)
    return np.where(known.sum(axis=1) > 1, highest - lowest, np.nan)


def by_length(found: Results) -> Markup:
    """The mean score of answers of about the same length, over their mean length."""
    lengths_q, values_q = figures.lengths(found.answers), found.values_q
    known = np.flatnonzero(np.isfinite(values_q))
    order = known[np.argsort(lengths_q[known], kind='stable')]
    groups = np.array_split(order, min(GROUPS, len(order) // IN_GROUP) or 1)
    labels = [str(number) for number, group in enumerate(groups) for _ in group]
    means = statistics.class_means(values_q[order], labels)
    at = [float(lengths_q[group].mean()) for group in groups if len(group)]
    points: list[tuple[float, scores.Bounds]] = [
        (length, (mean.value, mean.low, mean.high)) for length, mean in zip(at, means.values())
    ]
    return _ranged('mean score', points if len(points) > 1 else [], 'characters of an answer')


def scaling(made: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Markup]]:
    """Score over size for each class, where all names are numbers."""
    read = [SIZE.fullmatch(label.strip()) for label in made]
    if len(read) < 2 or not all(read):
        return []
    sizes = [float(m[1].replace(',', '')) * UNITS[m[2].lower()] for m in read if m]
    ordered = sorted(zip(sizes, made.values()), key=lambda pair: pair[0])
    shown = [(title, [one[key] for _, one in ordered]) for title, key in AVERAGES]
    for kind in ordered[0][1]['classes']:
        shown.append((kind, [one['classes'][kind] for _, one in ordered]))
    return [
        (title, _ranged(title, list(zip(sorted(sizes), map(bounds, values))), 'training rows'))
        for title, values in shown
    ]


def _ranged(name: str, points: Sequence[tuple[float, scores.Bounds]], label: str) -> Markup:
    """A curve between the ends of its intervals."""
    curves = []
    for place, (part, colour) in enumerate(((name, 'a'), ('from', 'edge'), ('to', 'edge'))):
        known = [(x, values[place]) for x, values in points if not np.isnan(values[place])]
        curves += [(part, colour, known)] if known else []
    return page.lines(curves, label, '{:.2f}'.format)
