"""kill -9 at random moments: the result is an undisturbed run's, and nothing is paid for twice."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

import programs
from api_runs import ServerProcess, driver, environment, kill_at_random_moments

CONCURRENCY = 32


def start(command):
    return programs.Heard(command, cwd=Path.cwd(), env=environment())


@pytest.mark.parametrize(
    ('kills', 'requests'), [(2, 200), pytest.param(10, 2000, marks=pytest.mark.soak)]
)
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(tmp_path, kills, requests):
    with ServerProcess(tmp_path / 'calm.log') as server:
        command = driver(
            tmp_path / 'calm.sqlite', server.url, requests, CONCURRENCY, tmp_path / 'calm.json'
        )
        assert start(command).wait(timeout=120) == 0
        assert len(server.lines()) == requests

    flags = ('--fault_rate=0.3', '--retry_after=0.2', '--delay=0.02')
    with ServerProcess(tmp_path / 'log', *flags) as server:
        command = driver(
            tmp_path / 'journal.sqlite', server.url, requests, CONCURRENCY, tmp_path / 'out.json'
        )
        kill_at_random_moments(
            lambda: start(command),
            server,
            tmp_path / 'journal.sqlite',
            kills=kills,
            requests=requests,
            concurrency=CONCURRENCY,
            chance=random.Random(20),
        )
        lines = server.lines()

    rows = json.loads((tmp_path / 'out.json').read_text('utf-8'))
    assert rows == json.loads((tmp_path / 'calm.json').read_text('utf-8'))
    assert [row[0] for row in rows] == list(range(requests))
    assert not any(error for *_, error in rows) and {reason for *_, reason, _ in rows} >= {'stop'}
    # The server did misbehave in each of its ways, and no answer was paid for twice but for kills.
    what = Counter(line['what'] for line in lines)
    assert len(what) == 13
    assert requests <= what['ok'] <= requests + kills * CONCURRENCY
    # The key is nowhere.
    key = environment()['OPENAI_API_KEY'].encode()
    assert not any(key in file.read_bytes() for file in tmp_path.iterdir())
