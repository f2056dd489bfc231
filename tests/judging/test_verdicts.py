"""Verdicts: what a careful person reads out of judges' replies, from tables of real-looking ones."""

from pathlib import Path

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


@pytest.mark.parametrize(('reply', 'read'), [*table('replies.txt'), *table('replies_later.txt')])
def test_a_score_is_what_a_careful_person_reads(reply, read):
    verdict = verdicts.parse(reply)
    assert verdict.score == (None if read is None else pytest.approx(float(read))), verdict
    assert verdict.score is None or 0 <= verdict.score <= 1
    assert read or verdict.reason


@pytest.mark.parametrize(('reply', 'read'), [*table('pairs.txt'), *table('pairs_later.txt')])
def test_a_preference_is_what_a_careful_person_reads(reply, read):
    assert verdicts.parse_pair(reply) == read
