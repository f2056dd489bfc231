"""The figures of an evaluation, against answers that are known."""

import json

import numpy as np
import pytest
from scipy import stats

import judged
from belle_jax.judging import figures, results, scoring
from belle_jax.judging.scoring import Judgement


def rank_correlation(x, y):
    return stats.spearmanr(np.stack([x, y], axis=1))[0]


def test_figures_are_those_of_the_scores_and_what_is_unparsed_is_never_zero(tmp_path):
    # open qa: questions 1 and 5, rewrite 2 and 6, code 3 and 7, math 4 and 8
    scores = [[0.5, 0.7], [1, 1], [0, None], [0.2, 0.4], [0.9, 0.9], [None, None], [1, 1], [0.8, 1]]
    found = figures.scores(results.load(judged.exactly(tmp_path / 'a', scores)))
    means = {kind: value['value'] for kind, value in found['classes'].items()}
    expected = {'open qa': (0.6 + 0.9) / 2, 'rewrite': 1.0, 'code': 0.5, 'math': (0.3 + 0.9) / 2}
    assert means == pytest.approx(expected)
    assert found['classes']['rewrite']['questions'] == 2
    assert found['classes']['rewrite']['scored'] == 1
    assert found['average']['value'] == pytest.approx(np.mean(list(expected.values())))
    without = found['average_without_math_and_code']['value']
    assert without == pytest.approx((expected['open qa'] + expected['rewrite']) / 2)
    covered = found['coverage']
    assert (covered['judgings'], covered['read'], covered['unparsed']) == (16, 13, 3)
    # Six answers have two scores: they lie 0.2, 0, 0.2, 0, 0 and 0.2 apart.
    assert found['judgings_agree']['answers'] == 6
    assert found['judgings_agree']['spread'] == pytest.approx(0.1)
    # With 0 and with 1 for the missing: rewrite 0.5 or 1, code 0.5 or 0.75, the others as before.
    missing = found['average_if_missing_were']
    assert missing['0'] == pytest.approx((0.75 + 0.5 + 0.5 + 0.6) / 4)
    assert missing['1'] == pytest.approx((0.75 + 1 + 0.75 + 0.6) / 4)
    assert '13 of 16 judgings have a score, 3 could not be read; were all' in figures.covered(found)
    table = figures.markdown({'a|b': found})
    assert '| class | a\\|b |' in table
    assert '| code | 0.500' in table and '| **average** | 0.713' in table


def test_what_is_missing_is_told_by_its_reason(tmp_path):
    made = judged.exactly(tmp_path / 'a', [[0.5]] * 8)
    rows = [json.loads(line) for line in made.output.read_text('utf-8').splitlines()]
    for row, reason in zip(rows, ('error', 'too long', 'length')):
        row['finish_reason'] = reason
    made.output.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    asked = made.questions
    given = [Judgement(q.number, q.kind, 0, 0.5, '0.5') for q in asked[4:]]
    given += [
        Judgement(2, asked[1].kind, 0, None, '', error='HTTP 500'),
        Judgement(3, asked[2].kind, 0, None, '不知道', again=True),
        Judgement(4, asked[3].kind, 0, 1.0, '1', again=True),
    ]
    scoring.write(made.path / 'verdicts.jsonl', given)
    assert figures.scores(results.load(made))['coverage'] == {
        'judgings': 8, 'read': 5, 'asked_again': 2, 'unparsed': 1, 'given_up': 1, 'not_judged': 1,
        'unanswered': 1, 'too_long': 1, 'cut': 1,
    }  # fmt: skip


def test_an_average_without_one_of_its_classes_is_none(tmp_path):
    found = figures.scores(results.load(judged.exactly(tmp_path / 'a', [[0.5], [1], [None], [0]])))
    assert found['average']['value'] is None and found['classes']['code']['value'] is None
    assert found['average_without_math_and_code']['value'] == 0.75
    assert '| code | – |' in figures.markdown({'a': found})


def test_length_is_held_against_scores_also_within_the_classes(tmp_path):
    # In one class answers are long and good, in the other short and bad; within each, the longer
    # are the worse.
    sizes = [400, 11, 410, 10, 420, 13, 430, 12, 440, 14]
    scores = [0.95, 0.2, 0.9, 0.25, 0.85, 0.1, 0.8, 0.15, 0.75, None]
    made = judged.exactly(
        tmp_path / 'a', [[s] for s in scores], ['长' * n for n in sizes], ('open qa', 'code')
    )
    found = figures.scores(results.load(made))['length_and_score']
    lengths, values = np.array(sizes[:9]), np.array(scores[:9], float)
    assert found['value'] == pytest.approx(rank_correlation(lengths, values))
    assert found['value'] > 0.4
    centred = [np.empty(9), np.empty(9)]
    for kind in (slice(0, 9, 2), slice(1, 9, 2)):
        for into, numbers in zip(centred, (lengths, values)):
            into[kind] = numbers[kind] - numbers[kind].mean()
    within = found['within_classes']['value']
    assert within == pytest.approx(rank_correlation(*centred))
    assert within < -0.9


def test_pairs_a_person_and_overlap_are_told(tmp_path):
    texts = ['长' * 9, '短', '中中', '中中中']
    made = judged.exactly(tmp_path / 'a', [[0.1], [0.4], [0.6], [0.9]], texts)
    other = judged.exactly(tmp_path / 'b', [[0.5]] * 4, ['短', '长长', '中中', '中'])
    values = [['model', 'model'], ['model', 'other'], ['tie', 'tie'], ['other', None]]
    pairs = [
        Judgement(q.number, q.kind, j, row[j], '')
        for j in (0, 1)
        for q, row in zip(made.questions, values)
    ]
    scoring.write(made.path / 'pairs.jsonl', pairs)
    made.note(against=str(other.path))
    (tmp_path / 'person.jsonl').write_text(
        ''.join(json.dumps({'id': n, 'score': s}) + '\n' for n, s in ((1, 0), (2, 0.5), (4, 1)))
    )
    judged.seen(made, [4])
    found = figures.scores(results.load(made, str(tmp_path / 'person.jsonl')))
    told = found['pairs']
    assert (told['win'], told['tie'], told['loss'], told['unparsed']) == (1, 2, 0, 1)
    assert told['flips'] == pytest.approx(1 / 3)
    assert told['first'] == pytest.approx(3 / 4)  # of four verdicts with a winner
    assert told['length_bias'] == {'longer': 1, 'shorter': 0, 'p_value': 1.0}
    assert found['person']['answers'] == 3
    assert found['person']['spearman']['value'] == pytest.approx(1)
    assert found['contamination']['questions'] == [4]
    without = found['contamination']['without_them']
    assert without['average']['value'] is None  # a class is empty now
    assert without['average_without_math_and_code']['value'] == pytest.approx(0.25)
    made.note(against=str(tmp_path / 'gone'))
    assert 'length_bias' not in figures.scores(results.load(made))['pairs']
