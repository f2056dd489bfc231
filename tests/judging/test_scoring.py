"""A judge that is asked in order, once more where it cannot be read, and nothing twice."""

import json
import re

import pytest

import judge_replies
from belle_jax.api import Client, Journal
from belle_jax.judging import scoring, verdicts
from belle_jax.judging.answering import FAILED, Asked, Response
from belle_jax.judging.questions import Question
from belle_jax.judging.rubrics import PAIR, Rubrics
from generate_runs import BAD, serving

TEMPLATE = (
    '题：{question}\n参考：{reference}\n回答：{answer}\n得分在0到1之间。最后一行：{"score": 1}'
)
PAIRED = '{question}{reference}A：{answer_a} B：{answer_b} {"winner": "A"}'


@pytest.fixture
def rubrics(tmp_path):
    return Rubrics(tmp_path / 'p.jsonl', {'math': TEMPLATE, 'code': TEMPLATE, PAIR: PAIRED})


def questions(count):
    return [
        Question(n, f'{n}加{n}是多少？', f'{2 * n}', ('math', 'code')[n % 2])
        for n in range(1, count + 1)
    ]


def judged(tmp_path, server, cases, **more):
    asked = Asked('test', {'temperature': 0, 'max_tokens': 99}, concurrency=8, **more)
    with Journal(tmp_path / 'judge.sqlite', {}) as journal:
        missing = scoring.judge(cases, asked, Client(server.url), journal, tmp_path / 'v.jsonl')
    return missing, scoring.read(tmp_path / 'v.jsonl')


def test_each_answer_is_judged_as_often_as_wanted_whatever_the_server_does(
    tmp_path, rubrics, monkeypatch
):
    monkeypatch.setenv('OPENAI_API_KEY', 'x')
    asked = questions(60)
    answers = [Response(f'{q.number}+{q.number}={2 * q.number}') for q in asked]
    cases = scoring.singles(asked, answers, rubrics, 2)
    with serving(content=judge_replies.judge, keep_bodies=True, **BAD) as server:
        missing, found = judged(tmp_path, server, cases)
        assert not missing
        assert [(v.number, v.judging) for v in found] == [
            (n, j) for j in (0, 1) for n in range(1, 61)
        ]
        # What was asked again is a conversation that holds the reply that could not be read.
        again = [body['messages'] for body in server.bodies if len(body['messages']) == 3]
        assert again and all(verdicts.parse(turns[1]['content']).score is None for turns in again)
        for verdict in found:
            assert verdict.value == verdicts.parse(verdict.reply).score and not verdict.error
        # The server says the same in both judgings.
        assert sum(v.again for v in found) == 2 * len({json.dumps(turns) for turns in again})
        assert (
            0 < sum(v.value is None for v in found) < sum(v.again for v in found) < len(found) / 4
        )
        # Nothing is asked twice, and a third judging asks for a third alone.
        before = len(server.log)
        assert judged(tmp_path, server, cases) == ('', found) and len(server.log) == before
        missing, more = judged(tmp_path, server, scoring.singles(asked, answers, rubrics, 3))
        assert more[:120] == found and len(more) == 180


def test_an_answer_that_failed_is_not_judged_and_one_that_is_mended_later_is(
    tmp_path, rubrics, monkeypatch
):
    monkeypatch.setenv('OPENAI_API_KEY', 'x')
    asked = questions(5)
    answers = [Response('a')] * 4
    answers.insert(1, Response('', FAILED))
    with serving(content=judge_replies.judge) as server:
        _, found = judged(tmp_path, server, scoring.singles(asked, answers, rubrics, 1))
        assert [v.number for v in found] == [1, 3, 4, 5]
        before = len(server.log)
        answers[1] = Response('b')
        _, found = judged(tmp_path, server, scoring.singles(asked, answers, rubrics, 1))
        assert [v.number for v in found] == [1, 2, 3, 4, 5]
        assert len(server.log) - before <= 2  # the new one, and once more


def test_a_judge_that_refuses_everything_costs_fifty_replies(tmp_path, rubrics, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'x')
    asked = questions(300)
    cases = scoring.singles(asked, [Response('a')] * 300, rubrics, 1)
    with serving(content=judge_replies.refuse) as server:
        with pytest.raises(ValueError, match='nothing could be read from 50 replies of test'):
            judged(tmp_path, server, cases)
        assert len(server.log) < 50 + 4 * 8 + 8
    assert all(v.value is None and v.reply for v in scoring.read(tmp_path / 'v.jsonl'))


def test_replies_that_a_server_never_gives_are_told_and_asked_for_again(
    tmp_path, rubrics, monkeypatch
):
    monkeypatch.setenv('OPENAI_API_KEY', 'x')
    asked = questions(6)
    cases = scoring.singles(asked, [Response('a')] * 6, rubrics, 1)

    def filtered(body):
        refused = '3加3' in body['messages'][0]['content']
        return (
            (400, {'error': {'message': 'content filter', 'code': 'content_filter'}})
            if refused
            else None
        )

    with serving(content=judge_replies.judge, rules=filtered) as server:
        missing, found = judged(tmp_path, server, cases)
    assert missing.startswith('1 judgings were given up (the last one: ') and 'filter' in missing
    assert [v.number for v in found if v.error] == [3]
    with serving(content=judge_replies.judge) as server:
        missing, found = judged(tmp_path, server, cases)
        assert not missing and len({r['key'] for r in server.log}) <= 2


def test_pairs_are_judged_in_both_orders(tmp_path, rubrics, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'x')
    asked = questions(8)
    ours, theirs = ([Response(f'{name}{n}') for n in range(8)] for name in ('我', '他'))

    def first_is_better(body, chance):
        return '两者相近，先写的那个略好。\n{"winner": "A"}', 'stop'

    def ours_is_better(body, chance):
        first = re.search('A：(.)', body['messages'][0]['content'])
        return f'{{"winner": "{"A" if first and first[1] == "我" else "B"}"}}', 'stop'

    cases = scoring.pairs(asked, ours, theirs, rubrics)
    with serving(content=first_is_better) as server:
        _, found = judged(tmp_path, server, cases)
    assert [v.value for v in found] == ['model'] * 8 + ['other'] * 8
    (tmp_path / 'judge.sqlite').unlink()
    with serving(content=ours_is_better) as server:
        _, found = judged(tmp_path, server, cases)
    assert [v.value for v in found] == ['model'] * 16
