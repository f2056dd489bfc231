"""The figures of an evaluation, and the page that shows them."""

import html.parser
import json

import numpy as np
import pytest

from belle_jax.judging import answering, report, results, scoring
from belle_jax.judging.answering import Response
from belle_jax.judging.evaluation import Evaluation
from belle_jax.judging.questions import Question
from belle_jax.judging.scoring import Judgement

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(2)>'


def evaluation(folder, name, scores, texts=None, kinds=('math', 'open qa', 'rewrite', 'code')):
    """An evaluation with scores [question][judging], None for what could not be read."""
    asked = [Question(n, f'问题{n}', '', kinds[n % len(kinds)]) for n in range(1, len(scores) + 1)]
    made = Evaluation.begin(folder / name, asked, model=name, answered_by='file')
    texts = texts or [f'回答{n}' for n in range(len(scores))]
    answering.write(made.output, asked, [Response(text, 'stop') for text in texts])
    found = [
        Judgement(q.number, q.kind, judging, row[judging], f'得分: {row[judging]}')
        for judging in range(len(scores[0]))
        for q, row in zip(asked, scores)
    ]
    scoring.write(made.path / 'verdicts.jsonl', found)
    made.note(judge='gpt-4', judgings=len(scores[0]))
    return made


def test_figures_are_those_of_the_scores_and_what_is_unparsed_is_never_zero(tmp_path):
    # open qa: questions 1 and 5, rewrite 2 and 6, code 3 and 7, math 4 and 8
    scores = [[0.5, 0.7], [1, 1], [0, None], [0.2, 0.4], [0.9, 0.9], [None, None], [1, 1], [0.8, 1]]
    made = evaluation(tmp_path, 'a', scores)
    figures = results.scores(results.load(made))
    means = {kind: value['value'] for kind, value in figures['classes'].items()}
    expected = {'open qa': (0.6 + 0.9) / 2, 'rewrite': 1.0, 'code': 0.5, 'math': (0.3 + 0.9) / 2}
    assert means == pytest.approx(expected)
    assert figures['average']['value'] == pytest.approx(np.mean(list(expected.values())))
    without = figures['average_without_math_and_code']['value']
    assert without == pytest.approx((expected['open qa'] + expected['rewrite']) / 2)
    covered = figures['coverage']
    assert (covered['judgings'], covered['read'], covered['unparsed']) == (16, 13, 3)
    # Six answers have two scores: they lie 0.2, 0, 0.2, 0, 0 and 0.2 apart.
    assert figures['judgings_agree']['answers'] == 6
    assert figures['judgings_agree']['spread'] == pytest.approx(0.1)
    said = report.write(made)
    assert '13 of 16 judgings have a score, 3 could not be read' in said
    assert json.loads((made.path / 'scores.json').read_text()) == figures
    table = (made.path / 'scores.md').read_text()
    assert '| code | 0.500' in table and '| **average** | 0.71' in table


def test_models_are_compared_question_by_question(tmp_path):
    ours = evaluation(tmp_path, 'a', [[0.5], [0.9], [0.4], [1.0], [None], [0.7], [0.2], [0.3]])
    theirs = evaluation(tmp_path, 'b', [[0.4], [0.9], [0.5], [0.5], [0.8], [0.1], [0.1], [0.2]])
    report.write(ours, {'2M': str(theirs.path)}, '0.6M')
    compared = json.loads((ours.path / 'scores.json').read_text())['compared']['2M']
    assert (compared['better'], compared['equal'], compared['worse']) == (5, 1, 1)
    # by class: open qa 0.1; rewrite (0 + 0.6) / 2; code (-0.1 + 0.1) / 2; math (0.5 + 0.1) / 2
    assert compared['difference']['value'] == pytest.approx(np.mean([0.1, 0.3, 0.0, 0.3]))
    assert compared['p_value'] == pytest.approx(14 / 64)  # 1 or fewer, or 5 or more, of 6
    page = (ours.path / 'report.html').read_text('utf-8')
    assert 'Score over the size of the data' in page and 'class="radar"' in page
    other = evaluation(tmp_path, 'c', [[0.5]] * 7)
    with pytest.raises(ValueError, match='asks other questions than'):
        report.write(ours, {'c': str(other.path)})


def test_pairs_a_person_and_overlap_are_told(tmp_path):
    made = evaluation(tmp_path, 'a', [[0.1], [0.4], [0.6], [0.9]])
    asked = made.questions
    values = [['model', 'model'], ['model', 'other'], ['tie', 'tie'], ['other', None]]
    pairs = [
        Judgement(q.number, q.kind, j, row[j], '') for j in (0, 1) for q, row in zip(asked, values)
    ]
    scoring.write(made.path / 'pairs.jsonl', pairs)
    made.note(against='b')
    (tmp_path / 'person.jsonl').write_text(
        ''.join(json.dumps({'id': n, 'score': s}) + '\n' for n, s in ((1, 0), (2, 0.5), (4, 1)))
    )
    seen = {'rows': 9, 'questions': 4, 'findings': [{'question': 4, 'kind': 'exact'}]}
    (made.path / 'contamination.json').write_text(json.dumps(seen))
    report.write(made, person=str(tmp_path / 'person.jsonl'))
    figures = json.loads((made.path / 'scores.json').read_text())
    found = figures['pairs']
    assert (found['win'], found['tie'], found['loss'], found['unparsed']) == (1, 2, 0, 1)
    assert found['flips'] == pytest.approx(1 / 3)
    assert found['first'] == pytest.approx(3 / 4)  # of four verdicts with a winner
    assert figures['person']['answers'] == 3
    assert figures['person']['spearman']['value'] == pytest.approx(1)
    assert figures['contamination']['questions'] == [4]
    assert figures['contamination']['average_without_them']['value'] is None  # a class is empty now


@pytest.mark.parametrize(
    ('row', 'said'), [({'id': 9, 'score': 1}, 'person.jsonl:1'), ({'id': 1, 'score': 8}, '0 to 1')]
)
def test_a_persons_scores_have_to_fit(tmp_path, row, said):
    made = evaluation(tmp_path, 'a', [[0.1]] * 4)
    (tmp_path / 'person.jsonl').write_text(json.dumps(row))
    with pytest.raises(ValueError, match=said):
        results.load(made, str(tmp_path / 'person.jsonl'))


def test_verdicts_on_other_questions_are_refused(tmp_path):
    made = evaluation(tmp_path, 'a', [[0.1]] * 4)
    scoring.write(made.path / 'verdicts.jsonl', [Judgement(9, 'math', 0, 1.0, '')])
    with pytest.raises(ValueError, match="verdict on question 9 of class 'math'"):
        results.load(made)


class Page(html.parser.HTMLParser):
    """The tags of a page, and what the block of data holds."""

    def __init__(self):
        super().__init__()
        self.tags, self.data, self._inside = [], '', False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = dict(attrs).get('id') == 'data'

    def handle_data(self, data):
        if self._inside:
            self.data += data

    def handle_endtag(self, tag):
        self._inside = False


def test_what_a_model_says_stays_text_and_nothing_is_loaded(tmp_path):
    made = evaluation(tmp_path, f'a<b>{EVIL[:9]}'.replace('/', '_'), [[0.5]] * 4, [EVIL] * 4)
    report.write(made)
    text = (made.path / 'report.html').read_text('utf-8')
    page = Page()
    page.feed(text)
    names = [tag for tag, _ in page.tags]
    assert names.count('script') == 2 and 'img' not in names and 'link' not in names
    assert not [attrs for _, attrs in page.tags if {'src', 'href', 'onerror'} & attrs.keys()]
    assert [q['answer'] for q in json.loads(page.data)] == [EVIL] * 4
    assert "default-src 'none'" in text
