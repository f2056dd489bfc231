"""The report: what it writes, compares and shows, and that what a model says stays text."""

import html.parser
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import judged
from belle_jax.judging import report, scoring
from belle_jax.judging.questions import Question
from judged import EVIL, exactly

TRIAL = Path(__file__).parents[1] / 'support' / 'report_trial.cjs'


class Page(html.parser.HTMLParser):
    """The tags of a page, what it says, and what the block of data holds."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.data, self.said, self._inside = [], '', '', ''
        self.feed((path / 'report.html').read_text('utf-8'))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = {'script': dict(attrs).get('id', 'script'), 'style': 'style'}.get(tag, '')

    def handle_data(self, data):
        if self._inside == 'data':
            self.data += data
        elif not self._inside:
            self.said += ' '.join(data.split()) + ' '

    def handle_endtag(self, tag):
        self._inside = ''


def test_three_files_tell_the_same(tmp_path):
    made = exactly(tmp_path / 'a', [[0.5, 0.7], [1, 1], [0, None], [0.2, 0.4]])
    said = report.write(made)
    assert said.endswith(f'Report: {made.path}/report.html')
    figures = json.loads((made.path / 'scores.json').read_text())
    average = figures['average']['value']
    assert average == pytest.approx((0.6 + 1 + 0 + 0.3) / 4)
    line = f'| **average** | {average:.3f} |'  # no interval: a class has one question
    assert line in said and line in (made.path / 'scores.md').read_text()
    assert '7 of 8 judgings have a score, 1 could not' in (made.path / 'scores.md').read_text()
    page = Page(made.path)
    assert f'{average:.3f} average' in page.said and '88% of 8 judgings have a score' in page.said
    assert 'could not be read, not even then 1 ' in page.said
    assert 'average if all that are missing were 0, or 1 0.475 or 0.600' in page.said
    assert 'How far judgings of one answer lie apart' in page.said


def test_models_are_compared_question_by_question(tmp_path):
    ours = exactly(tmp_path / 'a', [[0.5], [0.9], [0.4], [1.0], [None], [0.7], [0.2], [0.3]])
    theirs = exactly(tmp_path / 'b', [[0.4], [0.9], [0.5], [0.5], [0.8], [0.1], [0.1], [0.2]])
    said = report.write(ours, {'2M': str(theirs.path)}, '0.6M')
    compared = json.loads((ours.path / 'scores.json').read_text())['compared']['2M']
    assert (compared['better'], compared['equal'], compared['worse']) == (5, 1, 1)
    # by class: open qa 0.1; rewrite (0 + 0.6) / 2; code (-0.1 + 0.1) / 2; math (0.5 + 0.1) / 2
    assert compared['difference']['value'] == pytest.approx(np.mean([0.1, 0.3, 0.0, 0.3]))
    assert compared['p_value'] == pytest.approx(14 / 64)  # 1 or fewer, or 5 or more, of 6
    assert compared['conditions'] == [] and 'other judge' not in said
    page = Page(ours.path)
    assert '2M +0.175 5 1 1 0.219' in page.said
    assert 'Score over the size of the data' in page.said
    assert 'radar' in [attrs.get('class') for _, attrs in page.tags]
    other = exactly(tmp_path / 'c', [[0.5]] * 7)
    with pytest.raises(ValueError, match='asks other questions than'):
        report.write(ours, {'c': str(other.path)})


def test_scores_of_other_judges_are_compared_with_a_caution(tmp_path):
    ours, theirs = (exactly(tmp_path / name, [[0.5]] * 4) for name in 'ab')
    theirs.note(judge='gpt-3.5-turbo', judgings=2)
    said = report.write(ours, {'LoRA': str(theirs.path)})
    caution = 'LoRA was judged with other judge and judgings: the difference may be'
    assert caution in said and caution in (ours.path / 'scores.md').read_text()
    page = Page(ours.path)
    assert caution in page.said and 'Score over the size' not in page.said  # names are no sizes


def test_two_evaluations_of_one_name_are_refused(tmp_path):
    ours, theirs = (exactly(tmp_path / name, [[0.5]] * 4) for name in ('a', 'b/a'))
    with pytest.raises(ValueError, match="two evaluations are named 'a': give this one another"):
        report.write(ours, {'a': str(theirs.path)})


@pytest.mark.parametrize('names', [('200000', '0.6M'), ('1,000k', '2M')])
def test_sizes_are_an_axis(tmp_path, names):
    ours, theirs = (exactly(tmp_path / name, [[0.5]] * 4) for name in 'ab')
    report.write(ours, {names[1]: str(theirs.path)}, names[0])
    page = (ours.path / 'report.html').read_text('utf-8')
    drawn = page.partition('Score over the size of the data')[2].partition('<h2>')[0]
    assert drawn.count('<svg') == 2 + 4  # both averages, and the classes
    first, last = re.findall(r'cx="([\d.]+)"', drawn)[:2]
    share = (float(first) - 52) / (float(last) - 52)  # places from the axis on
    assert share == pytest.approx(200_000 / 600_000 if names[0] == '200000' else 1 / 2, abs=0.001)


@pytest.mark.parametrize('names', [('7B', '13B'), ('...', '2M'), ('1.2.3', '1')])
def test_names_that_are_no_number_of_rows_are_names(tmp_path, names):
    ours, theirs = (exactly(tmp_path / name, [[0.5]] * 4) for name in 'ab')
    report.write(ours, {names[1]: str(theirs.path)}, names[0])
    assert 'Score over the size of the data' not in Page(ours.path).said


def test_a_score_on_a_border_is_in_the_higher_column(tmp_path):
    made = exactly(tmp_path / 'a', [[0.3] * 3, [0.6] * 3, [0.7] * 3, [1.0] * 3])
    report.write(made)
    page = (made.path / 'report.html').read_text('utf-8')
    often = page.partition('How often each score')[2].partition('</svg>')[0]
    counts = re.findall(r'<title>([\d.]+) – [\d.]+: (\d)</title>', often)
    assert [begin for begin, count in counts if count == '1'] == ['0.3', '0.6', '0.7', '0.9']


def test_what_is_not_known_is_not_drawn_as_zero(tmp_path):
    made = exactly(tmp_path / 'a', [[0.5], [0.5], [None], [0.5]])
    report.write(made)
    page = (made.path / 'report.html').read_text('utf-8')
    shape = re.search(r'class="model"[^>]*points="([^"]*)"', page)
    assert shape and len(shape[1].split()) == 3 and '0.0,0.0' not in shape[1].replace('-', '')


def test_pairs_and_overlap_have_their_sections(tmp_path):
    made = exactly(tmp_path / 'a', [[0.5]] * 4)
    judged.compared(made, str(tmp_path / 'gone'))
    judged.seen(made, [2, 4])
    report.write(made)
    page = Page(made.path)
    assert f'Answer by answer against {tmp_path}/gone' in page.said
    assert 'length not known: the answers compared with are not there any more' in page.said
    assert '2 questions occur in the 50,000 training rows that were looked through: 2, 4.' in (
        page.said
    )
    rows = json.loads(page.data)
    assert [row['seen'] for row in rows] == [None, 'exact', None, 'exact']
    assert [[order for order, _, _ in row['pairs']] for row in rows] == [[0, 1]] * 4


def test_what_a_model_says_stays_text_and_nothing_is_loaded(tmp_path):
    made = exactly(tmp_path / 'a', [[0.5]] * 4, [EVIL] * 4, ('math', f'a {EVIL}', '"x', "'y"))
    verdicts = [v._replace(reply=EVIL) for v in scoring.read(made.path / 'verdicts.jsonl')]
    scoring.write(made.path / 'verdicts.jsonl', verdicts)
    judged.compared(made, EVIL)
    made.note(judge=EVIL, model=EVIL, prompts=EVIL)
    other = exactly(tmp_path / 'b', [[0.5]] * 4, [EVIL] * 4, ('math', f'a {EVIL}', '"x', "'y"))
    report.write(made, {EVIL: str(other.path)}, EVIL[::-1])
    page = Page(made.path)
    names = [tag for tag, _ in page.tags]
    assert names.count('script') == 2 and not {'img', 'link', 'iframe', 'a'} & {*names}
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert not [name for name in attributes if name in ('src', 'href') or name.startswith('on')]
    assert [row['answer'] for row in json.loads(page.data)] == [EVIL] * 4
    assert [row['verdicts'][0][1] for row in json.loads(page.data)] == [EVIL] * 4
    policy = next(attrs['content'] for _, attrs in page.tags if 'http-equiv' in attrs)
    assert policy.startswith("default-src 'none';") and "script-src 'sha256-" in policy
    assert 'unsafe-inline' not in policy.partition('script-src')[2]


@pytest.mark.slow
def test_a_person_in_chromium(tmp_path):
    """As CONTRIBUTING says: CHROMIUM and NODE_PATH say where Chromium and playwright-core are."""
    chromium, node = os.environ.get('CHROMIUM') or shutil.which('chromium'), shutil.which('node')
    if not chromium or not node:
        pytest.skip('there is no Chromium, or no node')
    if subprocess.run([node, '-e', 'require("playwright-core")'], capture_output=True).returncode:
        pytest.skip('there is no playwright-core: name its node_modules in NODE_PATH')
    kinds = 'open qa', 'math', 'code', 'rewrite'
    asked = [
        Question(n, f'问题{n}？', '很长的参考。\n' * (n % 9), kinds[n % 4]) for n in range(1, 1001)
    ]
    made = judged.evaluation(tmp_path / 'a', asked)
    judged.compared(made, 'b')
    judged.seen(made, range(1, 21))
    report.write(made)
    verdicts = scoring.read(made.path / 'verdicts.jsonl')
    done = subprocess.run(
        [node, TRIAL, made.path / 'report.html', tmp_path], capture_output=True, text=True,
        timeout=120, env=os.environ | {'CHROMIUM': chromium},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert not seen['errors'] and seen['asked'] == ['file:']
    assert seen['evil'] == EVIL and seen['hacked'] is None and seen['scripts'] == 0
    assert seen['all'] == seen['unbounded'] == '1,000 of 1,000 questions, 25 shown'
    assert seen['more'] == '1,000 of 1,000 questions, 50 shown'
    assert seen['unfolded'] and seen['foldedAgain']
    assert seen['math'].startswith('250 of') and 'math' in seen['kinds']
    assert not {*kinds} - {'math'} & {*seen['kinds']}
    again = {verdict.number for verdict in verdicts if verdict.again}
    assert seen['marks']['asked for once more'] == len(again)
    assert seen['marks']['in training data'] == 20
    figures = json.loads((made.path / 'scores.json').read_text())
    scored = sum(one['scored'] for one in figures['classes'].values())
    assert seen['marks']['without any score'] == 1000 - scored
    pairs = figures['pairs']
    flipped = pairs['flips'] * (pairs['win'] + pairs['tie'] + pairs['loss'])
    assert seen['marks']['the order decides'] == round(flipped)
    assert seen['lowest'] == 'score 0' and seen['twelfth'] == '#12'
    assert seen['searched'] == '1 of 1,000 questions, 1 shown'
    assert not seen['over1280'] and not seen['over420']
