"""An evaluation's figures: scores with their intervals, and how far the judge can be trusted.

What could not be read is NaN in arrays and null in JSON, and counts as nothing but itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from belle_jax.data.row_file import RowFile
from belle_jax.json_files import read_json
from belle_jax.judging import reliability, scoring, statistics
from belle_jax.judging.answering import TOO_LONG, Response
from belle_jax.judging.evaluation import CONTAMINATION, PAIRS, VERDICTS, Evaluation
from belle_jax.judging.scoring import Judgement

PLACES = {'model': 'A', 'other': 'B', 'tie': 'tie', None: None}  # the model's answer as A


@dataclass(frozen=True)
class Results:
    """What an evaluation came to.

    Attributes:
        evaluation: Its questions and settings.
        answers: To each question.
        verdicts: In the order of the file.
        scores_qj: float [questions, judgings].
        pairs: Verdicts of comparisons, as `verdicts`; empty where there were none.
        person_q: A person's scores, NaN where there is none.
        contamination: What contamination.json holds; {} where nobody looked.
    """

    evaluation: Evaluation
    answers: list[Response]
    verdicts: list[Judgement]
    scores_qj: np.ndarray
    pairs: list[Judgement]
    person_q: np.ndarray
    contamination: dict[str, Any]

    @property
    def kinds(self) -> list[str]:
        """The class of each question."""
        return [question.kind for question in self.evaluation.questions]

    @property
    def values_q(self) -> np.ndarray:
        """The mean score of each question."""
        return statistics.per_question(self.scores_qj)


def load(evaluation: Evaluation, person: str = '') -> Results:
    """Reads all that the stages wrote.

    Args:
        evaluation: Whose directory is read.
        person: File of a person's scores, {"id", "score"}; '': there is none.
    Raises:
        ValueError: a file is missing, damaged, or of other questions.
    """
    verdicts = scoring.read(evaluation.path / VERDICTS)
    kinds = {question.number: question.kind for question in evaluation.questions}
    judgings = max((verdict.judging for verdict in verdicts), default=0) + 1
    scores_qj = np.full((len(kinds), judgings), np.nan)
    for verdict in verdicts:
        if kinds.get(verdict.number) != verdict.kind:
            raise ValueError(
                f'{evaluation.path / VERDICTS} has a verdict on question {verdict.number} of class '
                f'{verdict.kind!r}, which is not asked there: delete it and judge again.'
            )
        if isinstance(verdict.value, int | float):
            scores_qj[verdict.number - 1, verdict.judging] = verdict.value
    pairs, overlap = evaluation.path / PAIRS, evaluation.path / CONTAMINATION
    return Results(
        evaluation,
        evaluation.answers(),
        verdicts,
        scores_qj,
        scoring.read(pairs) if pairs.is_file() else [],
        _person(person, len(kinds)) if person else np.full(len(kinds), np.nan),
        read_json(overlap) if overlap.is_file() else {},
    )


def _person(path: str, count: int) -> np.ndarray:
    """A person's scores [count] from a file of rows."""
    found = np.full(count, np.nan)
    row: Any
    for where, row in RowFile(path):
        row = row if isinstance(row, dict) else {}
        number, score = row.get('id'), row.get('score')
        given = isinstance(number, int) and isinstance(score, int | float)
        if not given or not 1 <= number <= count or not 0 <= score <= 1:
            raise ValueError(
                f'{where}: a person\'s score has "id", the number of a question from 1 to {count}, '
                'and "score" from 0 to 1.'
            )
        found[number - 1] = score
    return found


def scores(found: Results) -> dict[str, Any]:
    """All figures, as JSON values."""
    values_q, kinds = found.values_q, found.kinds
    classes = statistics.class_means(values_q, kinds)
    lengths_q = np.array([len(answer.text) for answer in found.answers], np.float64)
    settings = found.evaluation.settings
    figures: dict[str, Any] = {
        'model': settings['model'],
        'judge': settings.get('judge'),
        'questions': len(kinds),
        'judgings': found.scores_qj.shape[1],
        'average': statistics.macro_average(values_q, kinds)._asdict(),
        'average_without_math_and_code': statistics.macro_average(
            values_q, kinds, without=statistics.OTHERS
        )._asdict(),
        'classes': {
            kind: {'questions': kinds.count(kind), **interval._asdict()}
            for kind, interval in classes.items()
        },
        'coverage': coverage(found),
        'length_and_score': statistics.rank_correlation(lengths_q, values_q)._asdict(),
    }
    if found.scores_qj.shape[1] > 1:
        figures['judgings_agree'] = reliability.agreement(found.scores_qj, kinds)._asdict()
    if np.isfinite(found.person_q).any():
        person = reliability.with_person(values_q, found.person_q)
        figures['person'] = person._asdict() | {'spearman': person.spearman._asdict()}
    if found.pairs:
        figures['pairs'] = _pairs(found, lengths_q)
    if found.contamination:
        figures['contamination'] = _contamination(found)
    return plain(figures)


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


def _pairs(found: Results, lengths_q: np.ndarray) -> dict[str, Any]:
    """The comparison with another model's answers."""
    sides = {(v.number, v.judging): PLACES.get(v.value) for v in found.pairs}  # type: ignore[arg-type]
    numbers = sorted({number for number, _ in sides})
    first = [sides.get((number, 0)) for number in numbers]
    # `parse_pair` names places; ours stood second where the answers had changed places.
    swapped = {'A': 'B', 'B': 'A', 'tie': 'tie', None: None}
    second = [swapped[sides.get((number, 1))] for number in numbers]
    result = reliability.pairwise(first, second)
    return result._asdict() | {
        'against': found.evaluation.settings.get('against'),
        'margin': result.margin._asdict(),
    }


def _contamination(found: Results) -> dict[str, Any]:
    """The questions that training data have, and the average without them."""
    seen = sorted({finding['question'] for finding in found.contamination['findings']})
    values_q, kinds = found.values_q.copy(), found.kinds
    values_q[[number - 1 for number in seen]] = np.nan
    without = statistics.macro_average(values_q, kinds)
    return {'questions': seen, 'average_without_them': without._asdict()}


def markdown(labels: Sequence[str], figures: Sequence[dict[str, Any]]) -> str:
    """A table: classes in rows, models in columns, each score with its interval."""
    kinds = list(dict.fromkeys(kind for one in figures for kind in one['classes']))
    rows = [(kind, [one['classes'].get(kind) for one in figures]) for kind in kinds]
    rows += [
        ('**average**', [one['average'] for one in figures]),
        ('**without math and code**', [o['average_without_math_and_code'] for o in figures]),
    ]
    head = [f'| class | {" | ".join(_cell(label) for label in labels)} |']
    head.append(f'|---|{"---|" * len(labels)}')
    body = [
        f'| {_cell(name)} | {" | ".join(_bounds(v) for v in values)} |' for name, values in rows
    ]
    return '\n'.join([*head, *body]) + '\n'


def _cell(text: str) -> str:
    return text.replace('|', r'\|').replace('\n', ' ')


def _bounds(values: dict[str, Any] | None) -> str:
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
