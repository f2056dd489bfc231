"""The page that scores single answers: its requests, and a person in a browser."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import judge_replies
from belle_jax.api import Client, Retries
from belle_jax.judging import answering, scoring_page, verdicts
from belle_jax.judging.answering import Asked
from belle_jax.judging.questions import Question
from belle_jax.judging.rubrics import PAIR, Rubrics
from belle_jax.pages.server import PageServer
from generate_runs import KEY, serving

TEMPLATE = '题：{question}\n参考：{reference}\n回答：{answer}\n得分在0到1之间。'
ASKED = [
    Question(1, '一加一等于几？', '二', 'math'),
    Question(2, '二加二等于几？', '四', 'math'),
    Question(3, '写一个循环。', '', 'code'),
]


@contextlib.contextmanager
def page(url):
    """The page's address; its judge and one of its models are at `url`."""
    rubrics = Rubrics(Path('p.jsonl'), {'math': TEMPLATE, 'code': TEMPLATE, PAIR: TEMPLATE})
    judge = Asked('test', {'temperature': 0})
    client = lambda: Client(url, retries=Retries(attempts=2, attempt_timeout=5))  # noqa: E731
    models = {'test': scoring_page.of_server(judge, client)}
    made = scoring_page.ScoringPage(ASKED, rubrics, judge, client, models)
    get = {'': made.page, 'questions': made.questions}
    post = {'score': made.score, 'answer': made.answer}
    with PageServer(get, post, scoring_page.ASSETS) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


def asked(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {'Content-Type': 'application/json'})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_answers_are_scored_as_in_a_whole_evaluation(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    with serving(content=judge_replies.judge, keep_bodies=True) as server, page(server.url) as at:
        status, text = asked(at, '')
        assert status == 200 and KEY not in text and 'math (2)' in text
        found = json.loads(asked(at, 'questions?search=%E4%BA%8C%E5%8A%A0&kind=math')[1])
        assert [q['number'] for q in found['questions']] == [2] and found['found'] == 1
        again = 0
        for number in range(30):
            given = {'question': '问？', 'reference': '答', 'kind': 'Math', 'answer': f'好{number}'}
            status, text = asked(at, 'score', given)
            result = json.loads(text)
            assert status == 200 and result['score'] == verdicts.parse(result['reply']).score
            again += result['again']
        # As many as were asked once more, and were told so.
        assert again == sum(len(body['messages']) == 3 for body in server.bodies) > 0
        assert json.loads(asked(at, 'answer', {'question': '问？', 'model': 'test'})[1]) == {
            'answer': judge_replies.judge({'messages': [{'content': '问？'}]}, random.Random())[0]
        }


def test_what_cannot_be_is_a_sentence_without_the_key(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    given = {'question': '问？', 'reference': '', 'kind': 'math', 'answer': '好'}
    with serving(content=judge_replies.judge, key='other') as server, page(server.url) as at:
        for body, said in (
            (given, 'OPENAI_API_KEY'),
            (given | {'answer': ' '}, 'give a question and an answer'),
            (given | {'kind': 'law'}, "no prompt for the class 'law'"),
            ({'question': 1}, 'each a text'),
            ([], 'each a text'),
        ):
            status, text = asked(at, 'score', body)
            assert status == 400 and said in json.loads(text)['error'] and KEY not in text
        assert asked(at, 'answer', {'question': '问', 'model': 'gpt'})[0] == 400
        assert asked(at.rpartition('/')[0].rpartition('/')[0] + '/', 'questions')[0] == 403


@pytest.mark.slow
def test_a_person_in_chromium(monkeypatch, tmp_path):
    """As CONTRIBUTING says: CHROMIUM and NODE_PATH say where Chromium and playwright-core are."""
    chromium, node = os.environ.get('CHROMIUM') or shutil.which('chromium'), shutil.which('node')
    if not chromium or not node:
        pytest.skip('there is no Chromium, or no node')
    if subprocess.run([node, '-e', 'require("playwright-core")'], capture_output=True).returncode:
        pytest.skip('there is no playwright-core: name its node_modules in NODE_PATH')
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    trial = Path(__file__).parents[1] / 'support' / 'scoring_trial.cjs'
    with serving(content=judge_replies.judge) as server, page(server.url) as address:
        done = subprocess.run(
            [node, trial, address, tmp_path], capture_output=True, text=True, timeout=120,
            env=os.environ | {'CHROMIUM': chromium},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen['reference'] == '四' and not seen['errors']
    assert seen['hacked'] is None and seen['scripts'] == 0
    assert float(seen['value']) == verdicts.parse(seen['reply']).score
    assert '回答' in seen['answer'] and seen['means'].startswith('Means: math ')
    first, second = seen['saved']
    assert (first['id'], second['id']) == (2, None) and first['output'].startswith(
        '第一行\n<script>'
    )
    assert second['input'] == '我自己的问题？\n分两行。'
    (tmp_path / 'saved.jsonl').write_text(json.dumps(first), 'utf-8')
    assert answering.read(tmp_path / 'saved.jsonl', ASKED[1:2])[0].text == first['output']
    assert 'give a question and an answer' in seen['wrong']
    assert not seen['over1280'] and not seen['over420']
