"""What the stages of an evaluation wrote, read as one and checked against its questions.

A score that is not there is NaN.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax.data.row_file import RowFile
from belle_jax.json_files import read_json
from belle_jax.judging import answering, scoring, statistics
from belle_jax.judging.answering import Response
from belle_jax.judging.evaluation import ANSWERS, CONTAMINATION, PAIRS, VERDICTS, Evaluation
from belle_jax.judging.scoring import Judgement

MOST = 1000  # judgings of an answer


@dataclass(frozen=True)
class Results:
    """What an evaluation came to.

    Attributes:
        evaluation: Its questions and settings.
        answers: To each question.
        verdicts: In the order of the file.
        scores_qj: float [questions, judgings], NaN where there is none. The judgings are those
            that were wanted, made or not.
        pairs: Verdicts of comparisons, as `verdicts`; empty where there were none.
        opponent: The answers that these were compared with; empty where they are not there now.
        person_q: A person's scores, NaN where there is none.
        contamination: What contamination.json holds; {} where nobody looked.
    """

    evaluation: Evaluation
    answers: list[Response]
    verdicts: list[Judgement]
    scores_qj: np.ndarray
    pairs: list[Judgement]
    opponent: list[Response]
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
    verdicts = _verdicts(evaluation, VERDICTS)
    made = max((verdict.judging for verdict in verdicts), default=0) + 1
    judgings = max(made, evaluation.settings.get('judgings', 1))
    count = len(evaluation.questions)
    scores_qj = np.full((count, judgings), np.nan)
    for verdict in verdicts:
        scores_qj[verdict.number - 1, verdict.judging] = (
            np.nan if verdict.value is None else verdict.value
        )
    pairs = _verdicts(evaluation, PAIRS) if (evaluation.path / PAIRS).is_file() else []
    return Results(
        evaluation,
        evaluation.answers(),
        verdicts,
        scores_qj,
        pairs,
        _opponent(evaluation) if pairs else [],
        _person(person, count) if person else np.full(count, np.nan),
        _overlap(evaluation),
    )


def _verdicts(evaluation: Evaluation, name: str) -> list[Judgement]:
    """A file of verdicts, each of which is on a question that is asked, and there once."""
    path = evaluation.path / name
    kinds = {question.number: question.kind for question in evaluation.questions}
    found, known = scoring.read(path), set()
    for line, verdict in enumerate(found, 1):
        if not _whole(verdict.number) or kinds.get(verdict.number) != verdict.kind:
            raise ValueError(
                f'{path} has a verdict on question {verdict.number} of class {verdict.kind!r}, '
                'which is not asked there: delete it and judge again.'
            )
        if not _fits(verdict, name == PAIRS):
            raise ValueError(f'{path}:{line} is no verdict: delete the file and judge again.')
        if (verdict.number, verdict.judging) in known:
            raise ValueError(
                f'{path}:{line}: question {verdict.number} has a verdict of judging '
                f'{verdict.judging} already: delete the file and judge again.'
            )
        known.add((verdict.number, verdict.judging))
    return found


def _fits(verdict: Judgement, pair: bool) -> bool:
    """Whether all fields of a verdict are what they have to be."""
    value = verdict.value
    said = isinstance(verdict.reply, str) and isinstance(verdict.error, str)
    if not said or not _whole(verdict.judging) or not isinstance(verdict.again, bool):
        return False
    if pair:
        return verdict.judging in (0, 1) and value in (None, 'model', 'other', 'tie')
    return 0 <= verdict.judging < MOST and (value is None or _share(value))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _opponent(evaluation: Evaluation) -> list[Response]:
    """The answers that this model's were compared with, so far as they are still to be found."""
    if not (against := evaluation.settings.get('against')):
        return []
    path = Path(against) / ANSWERS if Path(against).is_dir() else Path(against)
    return answering.read(path, evaluation.questions) if path.is_file() else []


def _overlap(evaluation: Evaluation) -> dict[str, Any]:
    """What training data have of the questions; {} if nobody looked."""
    path, count = evaluation.path / CONTAMINATION, len(evaluation.questions)
    if not path.is_file():
        return {}
    found = read_json(path)
    numbers = [finding.get('question') for finding in found.get('findings', [])]
    fits = found.get('questions') == count and _whole(found.get('rows'))
    if not fits or not all(_whole(number) and 1 <= number <= count for number in numbers):
        raise ValueError(f'{path} is not about these {count:,} questions: look again with --train.')
    return found


def _person(path: str, count: int) -> np.ndarray:
    """A person's scores [count] from a file of rows."""
    found = np.full(count, np.nan)
    row: Any
    for where, row in RowFile(path):
        row = row if isinstance(row, dict) else {}
        number, score = row.get('id'), row.get('score')
        if not _whole(number) or not 1 <= number <= count or not _share(score):
            raise ValueError(
                f'{where}: a person\'s score has "id", the number of a question from 1 to {count}, '
                'and "score" from 0 to 1.'
            )
        found[number - 1] = score
    return found
