"""An evaluation's figures: scores with their intervals, and how far the judge can be trusted.

What is not known is NaN in arrays and null in JSON, and counts as nothing but itself.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from belle_jax.judging import reliability, statistics
from belle_jax.judging.answering import TOO_LONG, Response
from belle_jax.judging.results import Results

# What `pairwise` takes, by whether the model's answer stood first, as A, or second.
PLACES = (
    {'model': 'A', 'other': 'B', 'tie': 'tie', None: None},
    {'model': 'B', 'other': 'A', 'tie': 'tie', None: None},
)


def scores(found: Results) -> dict[str, Any]:
    """All figures, as JSON values."""
    values_q, kinds = found.values_q, found.kinds
    classes = statistics.class_means(values_q, kinds)
    scored = Counter(kind for kind, value in zip(kinds, values_q) if np.isfinite(value))
    settings = found.evaluation.settings
    figures: dict[str, Any] = {
        'model': settings['model'],
        'judge': settings.get('judge'),
        'questions': len(kinds),
        'judgings': found.scores_qj.shape[1],
        **_averages(values_q, kinds),
        'classes': {
            kind: {'questions': kinds.count(kind), 'scored': scored[kind], **interval._asdict()}
            for kind, interval in classes.items()
        },
        'coverage': coverage(found),
        'average_if_missing_were': {
            str(score): statistics.macro_average(
                statistics.per_question(np.nan_to_num(found.scores_qj, nan=score)), kinds, draws=1
            ).value
            for score in (0, 1)
        },
        'length_and_score': _length_and_score(found),
    }
    if found.scores_qj.shape[1] > 1:
        figures['judgings_agree'] = reliability.agreement(found.scores_qj, kinds)._asdict()
    if np.isfinite(found.person_q).any():
        person = reliability.with_person(values_q, found.person_q)
        figures['person'] = person._asdict() | {'spearman': person.spearman._asdict()}
    if found.pairs:
        figures['pairs'] = _pairs(found)
    if found.contamination:
        figures['contamination'] = _contamination(found)
    return plain(figures)


def _averages(values_q: np.ndarray, kinds: Sequence[str]) -> dict[str, Any]:
    """The average of the classes, with and without what BELLE's papers call others."""
    without = statistics.macro_average(values_q, kinds, without=statistics.OTHERS)
    return {
        'average': statistics.macro_average(values_q, kinds)._asdict(),
        'average_without_math_and_code': without._asdict(),
    }


def lengths(answers: Sequence[Response]) -> np.ndarray:
    """Characters of each answer, float64."""
    return np.array([len(answer.text) for answer in answers], np.float64)


def _length_and_score(found: Results) -> dict[str, Any]:
    """Rank correlation of answers' lengths and scores, over all and within the classes."""
    values_q, kinds = found.values_q, found.kinds
    # Where there is no score the length tells nothing of it.
    lengths_q = np.where(np.isfinite(values_q), lengths(found.answers), np.nan)

    def less_the_classes(numbers_q: np.ndarray) -> np.ndarray:
        means = statistics.class_means(numbers_q, kinds, draws=1)
        return numbers_q - [means[kind].value for kind in kinds]

    within = statistics.rank_correlation(less_the_classes(lengths_q), less_the_classes(values_q))
    whole = statistics.rank_correlation(lengths_q, values_q)
    return whole._asdict() | {'within_classes': within._asdict()}


def coverage(found: Results) -> dict[str, int]:
    """How many verdicts and answers there are, and why some are missing."""
    asked = found.scores_qj.size
    read = int(np.isfinite(found.scores_qj).sum())
    given_up = sum(bool(verdict.error) for verdict in found.verdicts)
    return {
        'judgings': asked,
        'read': read,
        'asked_again': sum(verdict.again for verdict in found.verdicts),
        'unparsed': len(found.verdicts) - read - given_up,
        'given_up': given_up,
        'not_judged': asked - len(found.verdicts),
        'unanswered': sum(answer.failed for answer in found.answers),
        'too_long': sum(answer.finish_reason == TOO_LONG for answer in found.answers),
        'cut': sum(answer.finish_reason == 'length' for answer in found.answers),
    }


def pair_values(found: Results) -> tuple[list[str | None], list[str | None]]:
    """The verdicts on pairs [questions], the model's answer first and second, as `pairwise` has it.

    None is what could not be read, or was not asked.
    """
    sides = {(v.number, v.judging): PLACES[v.judging][v.value] for v in found.pairs}  # type: ignore[index]
    numbers = [question.number for question in found.evaluation.questions]
    first, second = ([sides.get((number, order)) for number in numbers] for order in (0, 1))
    return first, second


def _pairs(found: Results) -> dict[str, Any]:
    """The comparison with another model's answers."""
    first, second = pair_values(found)
    result = reliability.pairwise(first, second)
    figures = result._asdict() | {
        'against': found.evaluation.settings.get('against'),
        'judge': found.evaluation.settings.get('pair_judge'),
        'margin': result.margin._asdict(),
    }
    if found.opponent:
        # As `pairwise` counts: who wins in both orders.
        outcomes = [(pair == ('A', 'B')) - (pair == ('B', 'A')) for pair in zip(first, second)]
        longer = reliability.length_bias(
            np.array(outcomes), lengths(found.answers), lengths(found.opponent)
        )
        figures['length_bias'] = longer._asdict()
    return figures


def _contamination(found: Results) -> dict[str, Any]:
    """The questions that training data have, and the averages without them."""
    seen = sorted({finding['question'] for finding in found.contamination['findings']})
    values_q = found.values_q.copy()
    values_q[[number - 1 for number in seen]] = np.nan
    return {
        'rows': found.contamination['rows'],
        'questions': seen,
        'without_them': _averages(values_q, found.kinds),
    }


def covered(of_one: Mapping[str, Any]) -> str:
    """How much of an evaluation has a score, in a sentence."""
    covered, missing = of_one['coverage'], of_one['average_if_missing_were']
    text = (
        f'{covered["read"]:,} of {covered["judgings"]:,} judgings have a score, '
        f'{covered["unparsed"]:,} could not be read'
    )
    if covered['read'] < covered['judgings']:
        text += (
            f'; were all that are missing 0, the average would be {missing["0"]:.3f}, and were '
            f'they 1, {missing["1"]:.3f}'
        )
    return text + '.'


def markdown(made: Mapping[str, Mapping[str, Any]]) -> str:
    """A table: classes in rows, models in columns, each score with its interval."""
    figures = list(made.values())
    kinds = list(dict.fromkeys(kind for one in figures for kind in one['classes']))
    rows = [(kind, [one['classes'].get(kind) for one in figures]) for kind in kinds]
    rows += [
        ('**average**', [one['average'] for one in figures]),
        ('**without math and code**', [o['average_without_math_and_code'] for o in figures]),
    ]
    head = [f'| class | {" | ".join(_cell(label) for label in made)} |']
    head.append(f'|---|{"---|" * len(figures)}')
    body = [
        f'| {_cell(name)} | {" | ".join(_bounds(v) for v in values)} |' for name, values in rows
    ]
    return '\n'.join([*head, *body]) + '\n'


def _cell(text: str) -> str:
    return text.replace('|', r'\|').replace('\n', ' ')


def _bounds(values: Mapping[str, Any] | None) -> str:
    if not values or values['value'] is None:
        return '–'
    if values['low'] is None:
        return f'{values["value"]:.3f}'
    return f'{values["value"]:.3f} ({values["low"]:.3f} to {values["high"]:.3f})'


def plain(value: Any) -> Any:
    """JSON values: NaN is null, and NumPy's numbers are Python's."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
