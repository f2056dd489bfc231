"""Verdicts: what a careful person reads, in tables of real-looking replies."""

from pathlib import Path

import numpy as np
import pytest

from belle_jax.judging import verdicts

HERE = Path(__file__).parent


def table(name: str):
    """The replies of a table, each with what is read out of it."""
    rows = []
    for block in (HERE / name).read_text('utf-8').split('\n=== ')[1:]:
        head, _, reply = block.partition('\n')
        read, _, about = head.partition(' | ')
        rows.append(pytest.param(reply, None if read == '-' else read, id=about))
    return rows


@pytest.mark.parametrize(
    ('reply', 'read'),
    [*table('replies.txt'), *table('replies_later.txt'), *table('replies_short.txt')],
)
def test_a_score_is_what_a_careful_person_reads(reply, read):
    verdict = verdicts.parse(reply)
    assert verdict.score == (None if read is None else pytest.approx(float(read))), verdict
    assert verdict.score is None or 0 <= verdict.score <= 1
    assert read or verdict.reason


@pytest.mark.parametrize(('reply', 'read'), [*table('pairs.txt'), *table('pairs_later.txt')])
def test_a_preference_is_what_a_careful_person_reads(reply, read):
    assert verdicts.parse_pair(reply) == read


@pytest.mark.parametrize(
    'reply', ['', ' \n\t', '\u200b', '。', '{', '{"', '</think>', '得分', '\ud800', '得分：①']
)
def test_a_reply_of_nothing_is_unparsed(reply):
    assert verdicts.parse(reply).score is None
    assert verdicts.parse_pair(reply) is None


def test_a_verdict_keeps_the_reasons_as_they_were_written():
    reply = '<think>得分：0.1</think>\n回答正确，但是太短。\n'
    reply += '```json\n{"score": 0.5, "reason": "太短（３句）"}\n```'
    assert verdicts.parse(reply) == (0.5, '回答正确，但是太短。\n太短（３句）')
    assert verdicts.parse('得分：0.9\n理由：好。') == (0.9, '得分：0.9\n理由：好。')


def test_an_unparsed_reply_is_told_what_could_not_be_read():
    assert verdicts.parse('得分：八分').reason.startswith('it says 八分, which is neither')
    assert '0.8, 0.5' in verdicts.parse('得分：0.8\n得分：0.5').reason
    assert verdicts.parse('我无法评分。').reason == 'it names no score'


@pytest.mark.parametrize(
    'piece',
    ['\n', '"', '0', '得分', '给', '得分：', '{"a":', '八', '(0', 'give a ', '[[', 'A比', '½'],
)
def test_a_reply_without_end_is_read_in_a_moment(piece):
    """Runs of what patterns repeat over: quadratic ones would take minutes here."""
    verdicts.parse(piece * 5000)
    verdicts.parse_pair(piece * 5000)


def test_random_replies_give_scores_in_range_or_none():
    rng = np.random.default_rng(0)
    pieces = (
        '得分 ： 0.8 1 8 10 / 分 满分 % - ~ 到 { } " ( ) 。 给 不 八 十 点 分之 A B 更好 of ½ \n'
    )
    pieces = pieces.split(' ')
    for _ in range(2000):
        reply = ''.join(rng.choice(pieces, rng.integers(1, 30)))
        score = verdicts.parse(reply).score
        assert score is None or 0 <= score <= 1, reply
        assert verdicts.parse_pair(reply) in ('A', 'B', 'tie', None)
