"""How far a judge can be trusted: by itself, by the other order, by length, and by a person.

Arrays are as in `statistics`; NaN is what could not be read, and is never 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from belle_jax.judging.statistics import (
    Interval,
    class_means,
    macro_average,
    rank_correlation,
    sign_test,
)

# Bins of a score, for agreement with a person, who gives few different ones: from which score on,
# and what it says of an answer.
BINS = (0.0, 'wrong'), (0.2, 'poor'), (0.4, 'fair'), (0.6, 'good'), (0.8, 'right')
VALUES = {'A': 1.0, 'tie': 0.0, 'B': -1.0, None: np.nan}


class Agreement(NamedTuple):
    """How far several judgings of the same answer agree.

    Attributes:
        answers: Answers with two or more scores.
        spread: The highest less the lowest score of an answer, on average.
        deviation: Standard deviation of the scores of one answer.
        alpha: Krippendorff's, for intervals: 1 is agreement, 0 what chance would give; NaN if all
            scores are the same.
        averages: The macro average of each judging; how far these differ is what moves a model's
            figure from one evaluation to the next.
    """

    answers: int
    spread: float
    deviation: float
    alpha: float
    averages: tuple[float, ...]


class Pairwise(NamedTuple):
    """Two models' answers, compared in both orders.

    Attributes:
        win: Pairs in which the first model won in both orders.
        tie: Pairs without a winner, among them all in which the orders disagree.
        loss: Pairs in which it lost in both orders.
        unparsed: Pairs of which a verdict could not be read.
        margin: Verdicts for the first model less those for the second, as a share of all verdicts.
        flips: Share of the pairs in which the orders disagree.
        first: Share of the verdicts with a winner that went to the answer that was shown first.
        p_value: Two-sided sign test, exact, that the order does not matter.
    """

    win: int
    tie: int
    loss: int
    unparsed: int
    margin: Interval
    flips: float
    first: float
    p_value: float


class LengthBias(NamedTuple):
    """How often the longer one of two answers won.

    Attributes:
        longer: Pairs that the longer answer won.
        shorter: Pairs that the shorter answer won.
        p_value: Two-sided sign test, exact, that length does not matter.
    """

    longer: int
    shorter: int
    p_value: float


class PersonAgreement(NamedTuple):
    """The judge's scores against a person's.

    Attributes:
        answers: Answers that both scored.
        spearman: Rank correlation.
        kappa: Cohen's, on BINS.
        weighted_kappa: With quadratic weights: neighbouring bins nearly agree.
    """

    answers: int
    spearman: Interval
    kappa: float
    weighted_kappa: float


def agreement(scores_qj: np.ndarray, kinds_q: Sequence[str]) -> Agreement:
    """How far the judgings of the same answers agree.

    Args:
        scores_qj: float [Q, J].
        kinds_q: Classes [Q].
    Returns:
        The measures, over answers with two scores or more; NaN if there is none.
    Source: Krippendorff, 2011 (computing Krippendorff's alpha-reliability), section E.
    """
    scores_qj = np.asarray(scores_qj, np.float64)
    averages = tuple(macro_average(scores, kinds_q, draws=1).value for scores in scores_qj.T)
    scores = scores_qj[np.isfinite(scores_qj).sum(axis=1) > 1]
    if not len(scores):
        return Agreement(0, np.nan, np.nan, np.nan, averages)
    counts = np.isfinite(scores).sum(axis=1)
    variances = np.nanvar(scores, axis=1, ddof=1)
    # Of pairs of scores, the mean squared difference is twice the variance: within the answers,
    # each weighing as many as it has scores, and among all scores.
    within = np.average(variances, weights=counts)
    among = np.nanvar(scores, ddof=1)
    return Agreement(
        answers=len(scores),
        spread=float(np.mean(np.nanmax(scores, axis=1) - np.nanmin(scores, axis=1))),
        deviation=float(np.sqrt(np.average(variances, weights=counts - 1))),
        alpha=float(1 - within / among) if among > 0 else np.nan,
        averages=averages,
    )


def pairwise(first_as_a: Sequence[str | None], first_as_b: Sequence[str | None]) -> Pairwise:
    """Two models' answers to the same questions, each pair judged in both orders.

    A model wins a pair if it wins in both orders; orders that disagree are a tie.

    Args:
        first_as_a: Verdicts [Q] of `parse_pair`, the first model's answer shown first, as A.
        first_as_b: The same pairs with the first model's answer shown second, as B.
    Returns:
        The counts and biases, over the pairs of which both verdicts could be read.
    Source: Zheng et al., 2023 (judging LLM-as-a-judge with MT-Bench), section 3.4.
    """
    ahead = np.array([VALUES[verdict] for verdict in first_as_a])
    behind = -np.array([VALUES[verdict] for verdict in first_as_b])
    margin = class_means((ahead + behind) / 2, [''] * len(ahead))
    known = np.isfinite(ahead + behind)
    ahead, behind = ahead[known], behind[known]
    win, loss = (
        int(((ahead == 1) & (behind == 1)).sum()),
        int(((ahead == -1) & (behind == -1)).sum()),
    )
    shown_first = int((ahead == 1).sum() + (behind == -1).sum())
    decided = shown_first + int((ahead == -1).sum() + (behind == 1).sum())
    return Pairwise(
        win=win,
        tie=len(ahead) - win - loss,
        loss=loss,
        unparsed=int((~known).sum()),
        margin=margin[''] if margin else Interval(np.nan, np.nan, np.nan),
        flips=float((ahead != behind).mean()) if len(ahead) else np.nan,
        first=shown_first / decided if decided else np.nan,
        # By pairs, whose two verdicts depend on each other.
        p_value=sign_test(int((ahead > behind).sum()), int((ahead < behind).sum())),
    )


def length_bias(
    outcomes_q: np.ndarray, first_lengths_q: np.ndarray, second_lengths_q: np.ndarray
) -> LengthBias:
    """How often the longer one of two answers won.

    Args:
        outcomes_q: Positive [Q] where the first answer won, negative where the second did.
        first_lengths_q: Lengths [Q] of the first answers, in characters, say.
        second_lengths_q: Lengths of the second ones.
    Returns:
        The counts, without ties and pairs of the same length.
    """
    signs = np.sign(outcomes_q) * np.sign(np.subtract(first_lengths_q, second_lengths_q))
    longer, shorter = int((signs > 0).sum()), int((signs < 0).sum())
    return LengthBias(longer, shorter, sign_test(longer, shorter))


def with_person(judge_q: np.ndarray, person_q: np.ndarray) -> PersonAgreement:
    """How far a judge agrees with a person.

    Args:
        judge_q: The judge's scores, float [Q].
        person_q: The person's scores of the same answers.
    Returns:
        The measures, over the answers that both scored.
    """
    judge_q, person_q = np.asarray(judge_q, np.float64), np.asarray(person_q, np.float64)
    known = np.isfinite(judge_q) & np.isfinite(person_q)
    table = np.zeros((len(BINS), len(BINS)))
    np.add.at(table, (bins(judge_q[known]), bins(person_q[known])), 1)
    correlation = rank_correlation(judge_q, person_q)
    return PersonAgreement(
        int(known.sum()), correlation, kappa(table), kappa(table, quadratic=True)
    )


def bins(scores: np.ndarray) -> np.ndarray:
    """The number of each score's bin, int [...]; a score on a border is in the higher one."""
    # 0.6 is a little less as the mean of three judgings.
    return np.digitize(np.round(scores, 6), [begin for begin, _ in BINS[1:]])


def kappa(table: np.ndarray, quadratic: bool = False) -> float:
    """Cohen's kappa: agreement beyond chance.

    Args:
        table: Counts [K, K] of the classes that two raters chose, in order.
        quadratic: Whether disagreement weighs as the square of its distance.
    Returns:
        1 for agreement, 0 for what chance would give; NaN if chance alone agrees always.
    Source: Cohen, 1960, and 1968 (weighted kappa).
    """
    table = np.asarray(table, np.float64)
    distance = np.abs(np.subtract.outer(np.arange(len(table)), np.arange(len(table))))
    weights = distance**2 if quadratic else distance > 0
    chance = (weights * np.outer(table.sum(axis=1), table.sum(axis=0))).sum()
    return float(1 - (weights * table).sum() * table.sum() / chance) if chance else np.nan
