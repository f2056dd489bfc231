"""What the stages wrote is read and checked."""

import json

import numpy as np
import pytest

import judged
from belle_jax.judging import results, scoring
from belle_jax.judging.scoring import Judgement

FINE = Judgement(1, 'open qa', 0, 0.5, '得分: 0.5')
SCORES = [[0.1], [0.4], [0.6], [None]]


def test_scores_lie_where_their_question_and_judging_are(tmp_path):
    made = judged.exactly(tmp_path / 'a', [[0.5, 1], [None, 0.25], [0, 0], [1, None]])
    found = results.load(made)
    expected = [[0.5, 1], [np.nan, 0.25], [0, 0], [1, np.nan]]
    np.testing.assert_array_equal(found.scores_qj, expected)
    np.testing.assert_array_equal(found.values_q, [0.75, 0.25, 0, 1])
    assert found.kinds == ['open qa', 'rewrite', 'code', 'math']


def test_judgings_that_were_wanted_and_not_made_have_a_place(tmp_path):
    made = judged.exactly(tmp_path / 'a', SCORES)
    made.note(judgings=3)  # and then the judge was stopped
    assert results.load(made).scores_qj.shape == (4, 3)


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        ({'number': 9}, "verdict on question 9 of class 'open qa', which is not asked"),
        ({'kind': 'math'}, "verdict on question 1 of class 'math', which is not asked"),
        ({'number': [1]}, 'verdict on question .1. of class'),
        ({'number': True}, 'verdict on question True of class'),
        ({'value': 1.5}, 'verdicts.jsonl:1 is no verdict'),
        ({'value': float('nan')}, 'verdicts.jsonl:1 is no verdict'),
        ({'value': True}, 'verdicts.jsonl:1 is no verdict'),
        ({'value': 'model'}, 'verdicts.jsonl:1 is no verdict'),
        ({'judging': -1}, 'verdicts.jsonl:1 is no verdict'),
        ({'judging': 10**9}, 'verdicts.jsonl:1 is no verdict'),
        ({'reply': None}, 'verdicts.jsonl:1 is no verdict'),
        ({'again': 'no'}, 'verdicts.jsonl:1 is no verdict'),
    ],
)
def test_verdicts_that_do_not_fit_are_refused(tmp_path, changed, said):
    made = judged.exactly(tmp_path / 'a', SCORES)
    scoring.write(made.path / 'verdicts.jsonl', [FINE._replace(**changed)])
    with pytest.raises(ValueError, match=said):
        results.load(made)


def test_a_second_verdict_of_one_judging_is_refused(tmp_path):
    made = judged.exactly(tmp_path / 'a', SCORES)
    scoring.write(made.path / 'verdicts.jsonl', [FINE, FINE])
    with pytest.raises(ValueError, match='verdicts.jsonl:2: question 1 has a verdict of judging 0'):
        results.load(made)


@pytest.mark.parametrize('changed', [{'value': 0.5}, {'value': 'model', 'judging': 2}])
def test_verdicts_on_pairs_that_do_not_fit_are_refused(tmp_path, changed):
    made = judged.exactly(tmp_path / 'a', SCORES)
    scoring.write(made.path / 'pairs.jsonl', [FINE._replace(**changed)])
    with pytest.raises(ValueError, match=r'pairs.jsonl:1 is no verdict'):
        results.load(made)


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('answers.jsonl', 'is not there: begin with the stage of answers'),
        ('verdicts.jsonl', 'is not there: let a judge score the answers first'),
    ],
)
def test_a_stage_that_is_missing_is_named(tmp_path, name, said):
    made = judged.exactly(tmp_path / 'a', SCORES)
    (made.path / name).unlink()
    with pytest.raises(ValueError, match=f'{name} {said}'):
        results.load(made)


@pytest.mark.parametrize(
    ('row', 'said'),
    [
        ({'id': 9, 'score': 1}, 'person.jsonl:1'),
        ({'id': 1, 'score': 8}, '0 to 1'),
        ({'id': True, 'score': 1}, 'from 1 to 4'),
        ({'id': 1, 'score': None}, '0 to 1'),
    ],
)
def test_a_persons_scores_have_to_fit(tmp_path, row, said):
    made = judged.exactly(tmp_path / 'a', SCORES)
    (tmp_path / 'person.jsonl').write_text(json.dumps(row))
    with pytest.raises(ValueError, match=said):
        results.load(made, str(tmp_path / 'person.jsonl'))


@pytest.mark.parametrize(
    'found',
    [
        {'rows': 9, 'questions': 5, 'findings': []},
        {'rows': 9, 'questions': 4, 'findings': [{'question': 0, 'kind': 'exact'}]},
        {'questions': 4, 'findings': []},
    ],
)
def test_overlap_of_other_questions_is_refused(tmp_path, found):
    made = judged.exactly(tmp_path / 'a', SCORES)
    (made.path / 'contamination.json').write_text(json.dumps(found))
    with pytest.raises(ValueError, match='is not about these 4 questions: look again with --train'):
        results.load(made)
