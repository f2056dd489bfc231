"""Statistics: published worked examples, SciPy, formulas in closed form, coverage in simulation."""

import numpy as np
import pytest
from scipy import stats

from belle_jax.judging import reliability, statistics

NAN = np.nan
KINDS = ['math', 'math', 'open qa', 'open qa', 'open qa', 'code']


def test_a_question_is_the_mean_of_the_judgings_that_could_be_read():
    scores = [[0.5, 0.7, NAN], [NAN, NAN, NAN], [1.0, 1.0, 0.4]]
    np.testing.assert_allclose(statistics.per_question(np.array(scores)), [0.6, NAN, 0.8])


def test_the_macro_average_weighs_classes_alike_and_leaves_out_others():
    values = np.array([1.0, 0.0, 0.6, 0.9, NAN, 0.2])
    means = statistics.class_means(values, KINDS)
    assert {kind: mean.value for kind, mean in means.items()} == pytest.approx(
        {'math': 0.5, 'open qa': 0.75, 'code': 0.2}
    )
    assert statistics.macro_average(values, KINDS).value == pytest.approx((0.5 + 0.75 + 0.2) / 3)
    others = statistics.macro_average(values, KINDS, statistics.OTHERS)
    assert others.value == pytest.approx(0.75)


def test_what_is_unparsed_is_never_a_zero():
    values = np.array([0.8, NAN, NAN, NAN])
    kinds = ['a', 'a', 'b', 'b']
    assert statistics.class_means(values, kinds)['a'].value == 0.8
    assert np.isnan(statistics.macro_average(values, kinds).value)
    assert statistics.macro_average(values, kinds, ['b']).value == 0.8
    assert np.isnan(statistics.macro_average(values, kinds, ['a', 'b']).value)
    with pytest.raises(ValueError, match='4 values cannot be of 2 questions'):
        statistics.macro_average(values, kinds[:2])


def test_an_interval_is_as_wide_as_the_standard_errors_of_the_classes_say():
    rng = np.random.default_rng(3)
    groups = [rng.uniform(0, 1, size) for size in (40, 90, 60)]
    kinds = [kind for kind, group in zip('abc', groups) for _ in group]
    interval = statistics.macro_average(np.concatenate(groups), kinds, draws=20_000)
    error = np.sqrt(sum(stats.sem(group) ** 2 for group in groups)) / 3
    assert interval.high - interval.low == pytest.approx(
        2 * stats.norm.ppf(0.975) * error, rel=0.03
    )
    one = statistics.class_means(np.concatenate(groups), kinds, draws=20_000)['a']
    expected = 2 * stats.norm.ppf(0.975) * stats.sem(groups[0])
    assert one.high - one.low == pytest.approx(expected, rel=0.03)
    assert one == statistics.class_means(np.concatenate(groups), kinds, draws=20_000)['a']


def test_one_answer_has_no_interval():
    interval = statistics.class_means(np.array([0.5]), ['a'])['a']
    assert interval.value == 0.5
    assert np.isnan(interval.low) and np.isnan(interval.high)


@pytest.mark.parametrize('sizes', [(8,) * 11, (30, 12, 80), (60,)])
def test_intervals_of_averages_cover(sizes):
    rng = np.random.default_rng(len(sizes))
    kinds = np.repeat([str(n) for n in range(len(sizes))], sizes).tolist()
    levels = np.array([0, 0.5, 0.8, 1.0])
    covered = 0
    for _ in range(500):
        chances = rng.dirichlet(np.full(4, 3), len(sizes))
        values = [rng.choice(levels, size, p=p) for size, p in zip(sizes, chances)]
        found = statistics.macro_average(np.concatenate(values), kinds, draws=600)
        covered += found.low <= (chances @ levels).mean() <= found.high
    assert 0.92 <= covered / 500 <= 0.98


def test_intervals_of_differences_cover_and_are_paired():
    rng = np.random.default_rng(5)
    kinds = ['a'] * 30 + ['b'] * 20
    covered = 0
    for _ in range(500):
        first = np.clip(rng.normal(0.6, 0.2, 50), 0, 1)
        second = first - rng.normal(0.05, 0.1, 50)
        found = statistics.macro_average(first - second, kinds, draws=600)
        covered += found.low <= 0.05 <= found.high
    assert 0.92 <= covered / 500 <= 0.98
    paired = statistics.compare(first, second, kinds).difference
    assert paired.high - paired.low < 0.08  # 0.16 if the models had been asked other questions


def test_models_are_compared_on_what_both_answered():
    first = np.array([0.9, 0.5, NAN, 0.7, 0.2, 0.1 + 0.2])
    second = np.array([0.4, 0.5, 1.0, NAN, 0.6, 0.3])
    found = statistics.compare(first, second, ['a', 'a', 'a', 'b', 'b', 'c'])
    assert (found.better, found.equal, found.worse) == (1, 2, 1)
    assert found.difference.value == pytest.approx((0.25 - 0.4 + 0) / 3)
    assert found.p_value == 1
    only = statistics.compare(first, second, ['a', 'a', 'a', 'b', 'b', 'c'], without=['b', 'c'])
    assert (only.better, only.worse, only.difference.value) == (1, 0, 0.25)


@pytest.mark.parametrize(
    ('more', 'less', 'p'),
    # Conover, Practical Nonparametric Statistics, and by counting.
    [(8, 1, 0.0390625), (0, 5, 0.0625), (5, 5, 1.0), (0, 0, 1.0), (10, 0, 2 / 1024)],
)
def test_the_sign_test_is_exact(more, less, p):
    assert statistics.sign_test(more, less) == pytest.approx(p)
    assert statistics.sign_test(less, more) == pytest.approx(p)


def test_rank_correlation_is_scipys_with_an_interval_that_covers():
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=60), 1)
    y = np.round(x + rng.normal(size=60), 1)
    x[3], y[7] = NAN, NAN
    expected = float(stats.spearmanr(x, y, nan_policy='omit')[0])  # pyright: ignore[reportArgumentType]
    assert statistics.rank_correlation(x, y).value == pytest.approx(expected)
    true, covered = 6 / np.pi * np.arcsin(0.5 / 2), 0  # of normal pairs with correlation 0.5
    for _ in range(500):
        x = rng.normal(size=80)
        found = statistics.rank_correlation(x, 0.5 * x + np.sqrt(0.75) * rng.normal(size=80))
        covered += found.low <= true <= found.high
    assert 0.92 <= covered / 500 <= 0.98


def test_rank_correlation_of_too_little_is_nan():
    assert np.isnan(statistics.rank_correlation(np.array([1.0, 2]), np.array([3.0, 3])).value)
    assert np.isnan(statistics.rank_correlation(np.array([1.0]), np.array([NAN])).value)
    found = statistics.rank_correlation(np.arange(9.0), np.arange(9.0))
    assert found.value == 1 and np.isnan(found.low)


def test_agreement_of_judgings_is_krippendorffs_own_example():
    """Krippendorff, 2011: four observers, twelve units, missing data; alpha of intervals 0.849."""
    rows = '123321412...', '1233224125.3', '.3332342251.', '12332441251.'
    scores = np.array([[NAN if sign == '.' else float(sign) for sign in row] for row in rows]).T
    found = reliability.agreement(scores, ['a'] * 12)
    assert found.alpha == pytest.approx(0.849, abs=5e-4)
    assert found.answers == 11  # one unit has a single value


def test_agreement_counts_spread_and_deviation_within_answers():
    scores = np.array([[0.5, 0.7, 0.6], [1.0, 1.0, NAN], [NAN, 0.3, NAN], [0.2, 0.6, NAN]])
    found = reliability.agreement(scores, ['a', 'a', 'b', 'b'])
    assert found.answers == 3
    assert found.spread == pytest.approx((0.2 + 0 + 0.4) / 3)
    assert found.deviation == pytest.approx(np.sqrt((2 * 0.01 + 0 + 0.08) / 4))
    np.testing.assert_allclose(found.averages, [(0.75 + 0.2) / 2, (0.85 + 0.45) / 2, NAN])
    alone = reliability.agreement(scores[:, :1], ['a', 'a', 'b', 'b'])
    assert alone.answers == 0 and np.isnan(alone.alpha)
    assert np.isnan(reliability.agreement(np.ones((4, 2)), ['a'] * 4).alpha)


def test_pairs_in_both_orders_tell_winner_flips_and_position_bias():
    # The first model as A: won, won, lost, tie, won, won, unread; then as B.
    as_a = ['A', 'A', 'B', 'tie', 'A', 'A', None]
    as_b = ['B', 'A', 'A', 'tie', 'tie', 'A', 'B']
    found = reliability.pairwise(as_a, as_b)
    assert (found.win, found.tie, found.loss, found.unparsed) == (1, 4, 1, 1)
    assert found.margin.value == pytest.approx((1 + 0 - 1 + 0 + 0.5 + 0) / 6)
    assert found.flips == pytest.approx(3 / 6)
    # Of nine verdicts with a winner, seven went to what was shown first.
    assert found.first == pytest.approx(7 / 9)
    assert found.p_value == pytest.approx(0.25)  # three pairs for the first place, none against
    empty = reliability.pairwise([None], ['A'])
    assert empty.unparsed == 1 and np.isnan(empty.flips) and np.isnan(empty.first)


def test_length_bias_counts_pairs_with_a_winner_and_two_lengths():
    found = reliability.length_bias(
        np.array([1, -1, 0, 1, NAN, 1]), np.array([9, 5, 9, 3, 9, 4]), np.array([2, 8, 2, 7, 1, 4])
    )
    assert found == (2, 1, 1.0)


def test_kappa_is_that_of_published_tables():
    # Wikipedia's proposals; Fleiss, Levin and Paik's psychologists (2003, table 18.1).
    assert reliability.kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    psychologists = np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]])
    assert reliability.kappa(psychologists) == pytest.approx(0.676, abs=5e-4)
    assert np.isnan(reliability.kappa(np.diag([7, 0])))


def test_quadratic_kappa_is_the_concordance_correlation_of_the_bins():
    """Lin's coefficient, 2 cov / (var + var + (mean - mean)^2), equals it for ranks as numbers."""
    rng = np.random.default_rng(1)
    person = rng.integers(0, 5, 200)
    judge = np.clip(person + rng.integers(-1, 2, 200), 0, 4)
    table = np.zeros((5, 5))
    np.add.at(table, (judge, person), 1)
    covariance = np.cov(judge, person, ddof=0)
    lin = 2 * covariance[0, 1] / (covariance.trace() + (judge.mean() - person.mean()) ** 2)
    assert reliability.kappa(table, quadratic=True) == pytest.approx(lin)


def test_a_person_is_agreed_with_in_bins():
    judge = np.array([0.0, 0.2, 0.39, 0.6, (0.5 + 0.6 + 0.7) / 3, 0.95, 1.0, NAN, 0.4])
    assert reliability.bins(judge[:7]).tolist() == [0, 1, 1, 3, 3, 4, 4]
    person = np.array([0.0, 0.25, 0.25, 0.75, 0.75, 1.0, 1.0, 0.5, NAN])
    found = reliability.with_person(judge, person)
    assert (found.answers, found.kappa, found.weighted_kappa) == (7, 1.0, 1.0)
    expected = stats.spearmanr(judge[:7], person[:7])[0]
    assert found.spearman.value == pytest.approx(expected)
    assert np.isnan(reliability.with_person(judge[:1], person[8:]).kappa)
