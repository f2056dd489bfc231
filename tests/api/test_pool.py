"""Many requests at a time: order, journal, budget, stopping and failing."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from api_server import Server, body_key
from belle_jax.api import (
    Breaker,
    Budget,
    Client,
    Journal,
    Price,
    Refused,
    Request,
    Retries,
    Unreachable,
    ask_all,
)

ROOT = Path(__file__).resolve().parents[2]
FAST = Retries(first_delay=0.01, attempt_timeout=3)  # of servers that may hang
PATIENT = Retries(first_delay=0.01, attempt_timeout=30)  # of others, on a machine that is busy


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-test-0123456789abcdefghij')


def content(body, chance):
    """20 characters, which the server counts as 20 tokens."""
    return f'{body["prompt"]}{chance.randint(0, 9)}'.rjust(20, '的'), 'stop'


def requests(count, start=0, max_tokens=20):
    """Prompts of 12 characters, which the server counts, and 24 bytes, which are guessed as 12."""
    for index in range(start, start + count):
        yield Request(index, {'prompt': f'好好好好好好{index:06}', 'max_tokens': max_tokens})


def run(path, asked, use=None, *, server=None, client=None, concurrency=8, **options):
    """One run over one journal.

    Returns:
        How it ended (or its exception), the replies used, the server, the client's counters.
    """
    used = []
    asks: dict[str, Any] = {'retries': FAST if server else PATIENT}

    def keep(reply):
        used.append(reply)
        return bool(use and use(reply))

    async def work():
        async with Server(content=content, **(server or {})) as served:
            with Journal(path, {'test': 1}) as journal:
                async with Client(served.url, **(asks | (client or {}))) as asking:
                    try:
                        outcome = await ask_all(
                            asked, asking, journal, concurrency=concurrency, use=keep, **options
                        )
                    except Exception as error:
                        outcome = error
                    return outcome, used, served, asking.counters

    return asyncio.run(work())


def journaled(path):
    with Journal(path) as journal:
        return list(journal.entries())


def test_replies_are_used_in_order_whatever_the_server_does(tmp_path):
    good = run(tmp_path / 'a', requests(300))[1]
    outcome, used, served, counters = run(
        tmp_path / 'b',
        requests(300),
        server={'fault_rate': 0.4, 'retry_after': '0.02'},
        concurrency=32,
    )
    assert outcome == 'exhausted' and [reply.index for reply in used] == list(range(300))
    assert [reply.text for reply in used] == [reply.text for reply in good]
    assert all(reply.text.startswith('的') and not reply.error for reply in used)
    assert counters.asked == counters.answered == counters.used == 300
    assert counters.in_flight == counters.given_up == counters.from_journal == 0
    failed = Counter(line['what'] for line in served.log if line['what'] != 'ok')
    assert sum(counters.retries.values()) == sum(failed.values()) == len(served.log) - 300
    assert counters.retries['time-out'] == failed['hang'] > 0
    assert counters.retries['bad JSON'] == failed['half json'] + failed['not json'] > 0
    # What was paid for is in the journal, attempts without choices included.
    paid = 300 + failed['empty choices']
    assert counters.completion_tokens == 20 * paid and counters.prompt_tokens == 12 * paid
    assert [reply for _, reply in journaled(tmp_path / 'b')] == used


def test_what_the_journal_has_is_not_asked_again(tmp_path):
    path = tmp_path / 'j'
    first = run(path, requests(50))[1]
    outcome, used, served, counters = run(path, requests(80))
    assert used[:50] == first and [reply.index for reply in used] == list(range(80))
    asked = {body_key(request.body) for request in requests(30, 50)}
    assert {line['key'] for line in served.log} == asked and len(served.log) == 30
    assert (counters.from_journal, counters.asked) == (50, 30)
    # And nothing at all, when everything is there.
    outcome, used, served, _ = run(path, requests(80))
    assert outcome == 'exhausted' and len(used) == 80 and served.log == []


def test_given_up_requests_are_used_with_their_error_and_asked_by_the_next_run(tmp_path):
    path = tmp_path / 'j'
    bad = {'retries': Retries(attempts=2, first_delay=0.0), 'breaker': Breaker(10**6)}
    outcome, used, _, counters = run(path, requests(5), server={'script': ['500']}, client=bad)
    assert [reply.error[:4] for reply in used] == ['500:'] * 5 and outcome == 'exhausted'
    assert counters.given_up == 5
    _, used, served, _ = run(path, requests(5))
    assert [bool(reply.text) for reply in used] == [True] * 5 and len(served.log) == 5


def test_never_more_in_flight_than_allowed_and_never_further_ahead(tmp_path):
    async def work():
        most = furthest = 0
        blocked = threading.Event()
        asked = []

        def ask():
            for request in requests(200):
                asked.append(request.index)
                yield request

        def use(reply):
            # The first reply keeps `use` busy; meanwhile others are asked, but not for ever.
            if reply.index == 0:
                blocked.wait(20)
            return False

        async with Server(content=content, delay=0.002) as served:
            with Journal(tmp_path / 'j', {}) as journal:
                async with Client(served.url) as client:
                    task = asyncio.create_task(
                        ask_all(ask(), client, journal, concurrency=7, use=use, ahead=20)
                    )
                    while client.counters.answered < 20 or client.counters.in_flight:
                        most = max(most, client.counters.in_flight)
                        await asyncio.sleep(0.001)
                    # Some turns of the loop more: nothing else goes out.
                    await asyncio.sleep(0.05)
                    furthest = len(served.log)
                    blocked.set()
                    assert await task == 'exhausted'
        return most, furthest, len(asked)

    most, furthest, taken = asyncio.run(work())
    assert most == 7 and furthest == 20 and taken == 200


def test_the_run_stops_when_there_is_enough(tmp_path):
    outcome, used, served, counters = run(
        tmp_path / 'j', requests(10**9), lambda reply: reply.index == 99, ahead=30
    )
    assert outcome == 'enough' and [reply.index for reply in used] == list(range(100))
    # What was in flight is in the journal, and nothing more was asked than there was room for.
    kept = journaled(tmp_path / 'j')
    assert len(kept) == len(served.log) == counters.answered and 100 <= len(kept) <= 130
    # The same run again needs no request.
    again = run(tmp_path / 'j', requests(10**9), lambda reply: reply.index == 99)
    assert again[0] == 'enough' and again[1] == used
    assert not {line['key'] for line in again[2].log} & {body_key(r.body) for r, _ in kept}


def test_a_budget_in_tokens_is_not_overstepped_and_well_used(tmp_path):
    path, budget = tmp_path / 'j', Budget(tokens=32 * 40 + 31)
    outcome, used, served, _ = run(path, requests(10**9), budget=budget)
    assert outcome == 'budget' and len(used) == len(served.log) == 40
    with Journal(path) as journal:
        assert journal.spent().tokens == 32 * 40
    # It holds for the journal, not for each run.
    outcome, used, served, _ = run(path, requests(10**9), budget=budget)
    assert (outcome, len(used), served.log) == ('budget', 40, [])
    outcome, used, served, _ = run(path, requests(10**9), budget=Budget(tokens=32 * 50))
    assert (outcome, len(used), len(served.log)) == ('budget', 50, 10)


def test_a_budget_in_usd_counts_what_is_in_flight(tmp_path):
    # 12 tokens at 1 USD and 20 at 2 USD a million are 52 millionths.
    price = Price(1.0, 2.0)
    budget = Budget(usd=52e-6 * 30 + 1e-9)
    outcome, used, _, counters = run(
        tmp_path / 'j', requests(10**9), client={'price': price}, budget=budget, concurrency=64
    )
    assert outcome == 'budget' and len(used) == 30
    assert counters.cost_usd == pytest.approx(52e-6 * 30)
    # With answers of up to 200 tokens it ends where one more might be too many.
    outcome, used, *_ = run(
        tmp_path / 'k', requests(10**9, max_tokens=200), client={'price': price}, budget=budget
    )
    worst = 12 * 1.0 + 200 * 2.0
    assert outcome == 'budget' and len(used) == int((52 * 30 - worst) / 52) + 1


def test_a_budget_in_usd_counts_what_was_answered_before_there_was_a_price(tmp_path):
    run(tmp_path / 'j', requests(20))
    priced = {'client': {'price': Price(1.0, 2.0)}, 'budget': Budget(usd=52e-6 * 30 + 1e-9)}
    outcome, used, served, _ = run(tmp_path / 'j', requests(10**9), **priced)
    assert (outcome, len(used), len(served.log)) == ('budget', 30, 10)


def test_a_budget_in_usd_needs_a_price(tmp_path):
    outcome, *_ = run(tmp_path / 'j', requests(5), budget=Budget(usd=1.0))
    assert isinstance(outcome, ValueError) and 'needs to know what the model costs' in str(outcome)


def test_a_refusal_ends_the_run_and_keeps_what_came(tmp_path):
    outcome, used, served, _ = run(tmp_path / 'j', requests(500), server={'key': 'another'})
    assert isinstance(outcome, Refused) and 'OPENAI_API_KEY' in str(outcome) and used == []
    assert len(served.log) <= 8
    # In the middle: the server takes the key away after 30 bodies.
    seen = []

    def revoke(body, chance):
        seen.append(body)
        return content(body, chance)

    async def work():
        async with Server(content=revoke) as served, Client(served.url) as client:
            with Journal(tmp_path / 'k', {}) as journal:

                def use(reply):
                    if reply.index == 29:
                        served._script = ['403']
                    return False

                with pytest.raises(Refused, match='403'):
                    await ask_all(requests(500), client, journal, concurrency=4, use=use)
                return len(journal)

    assert asyncio.run(work()) == len(seen) >= 30


def test_an_unreachable_server_ends_the_run_with_a_sentence(tmp_path):
    async def nobody():
        async with Server() as served:
            url = served.url
        with Journal(tmp_path / 'j', {}) as journal:
            client = Client(url, breaker=Breaker(4, first_pause=0.01, first_deadline=0.05))
            async with client:
                use: Any = pytest.fail
                with pytest.raises(Unreachable, match='has not answered'):
                    await ask_all(requests(50), client, journal, concurrency=8, use=use)
                assert len(journal) == 0 and client.counters.in_flight == 0

    asyncio.run(nobody())


def test_a_failure_of_use_or_of_the_requests_ends_the_run(tmp_path):
    def breaks(reply):
        if reply.index == 20:
            raise RuntimeError('my filter')
        return False

    outcome, used, served, _ = run(tmp_path / 'a', requests(200), breaks)
    assert isinstance(outcome, RuntimeError) and str(outcome) == 'my filter' and len(used) == 21
    # All that the server answered is in the journal.
    assert len(journaled(tmp_path / 'a')) == len(served.log)

    def half():
        yield from requests(10)
        raise RuntimeError('my prompt')

    outcome, *_ = run(tmp_path / 'b', half())
    assert isinstance(outcome, RuntimeError) and str(outcome) == 'my prompt'
    assert len(journaled(tmp_path / 'b')) == 10
    outcome, *_ = run(tmp_path / 'c', iter([*requests(3), *requests(1)]))
    assert isinstance(outcome, ValueError) and 'request 0 comes after 2' in str(outcome)
    outcome, *_ = run(tmp_path / 'd', requests(1), concurrency=0)
    assert isinstance(outcome, ValueError) and 'concurrency=0' in str(outcome)


def test_a_cancelled_run_awaits_what_the_server_is_paid_for(tmp_path):
    async def work(script, grace):
        path = tmp_path / f'{len(script)}{grace}'
        async with Server(content=content, delay=0.15, script=script) as served:
            with Journal(path, {}) as journal:
                async with Client(served.url, retries=Retries(first_delay=60)) as client:
                    run = ask_all(
                        requests(99), client, journal, concurrency=5, use=bool, grace=grace
                    )
                    task = asyncio.create_task(run)
                    while len(served.log) < 5:
                        await asyncio.sleep(0.001)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    assert client.counters.in_flight == 0
                    await asyncio.sleep(0.2)
                    return len(served.log), len(journal)

    assert asyncio.run(work(['ok'], 10.0)) == (5, 5)
    # Who waits for another try is let go; who takes longer than the grace too.
    assert asyncio.run(work(['500', 'ok'], 10.0)) == (5, 0)
    assert asyncio.run(work(['hang'], 0.01)) == (5, 0)


def test_two_runs_with_one_client_count_on(tmp_path):
    async def work():
        async with Server(content=content) as served, Client(served.url) as client:
            with Journal(tmp_path / 'j', {}) as journal:
                for _ in range(2):
                    stop = await ask_all(
                        requests(99), client, journal, concurrency=4, use=lambda r: r.index == 9
                    )
                    assert stop == 'enough'
                assert client.counters.used == 20 and client.counters.from_journal >= 10

    asyncio.run(work())


PATHS = (ROOT, ROOT / 'tests' / 'api', ROOT / 'tests' / 'support')
INTERRUPTED = """
import asyncio, sys
sys.path[:0] = sys.argv[1:4]
from belle_jax.api import Client, Journal, ask_all
from test_pool import requests
async def main():
    with Journal(sys.argv[4], {}) as journal:
        async with Client(sys.argv[5]) as client:
            print('begun', flush=True)
            await ask_all(requests(10**6), client, journal, concurrency=16, use=lambda r: False)
asyncio.run(main())
"""


def test_ctrl_c_finishes_what_is_in_flight(tmp_path):
    log = tmp_path / 'log'
    server = subprocess.Popen(
        [sys.executable, str(ROOT / 'tests/support/api_server.py'), '--delay=0.2', f'--log={log}'],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        driver = subprocess.Popen(
            [sys.executable, '-c', INTERRUPTED, *PATHS, tmp_path / 'j', url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {'JAX_PLATFORMS': 'cpu'},
            text=True,
        )
        assert driver.stdout and driver.stdout.readline() == 'begun\n'
        while not log.exists() or len(log.read_text().splitlines()) < 40:
            time.sleep(0.01)
        driver.send_signal(signal.SIGINT)
        _, error = driver.communicate(timeout=30)
        assert driver.returncode != 0 and 'KeyboardInterrupt' in error
        with Journal(tmp_path / 'j') as journal:
            assert len(journal) == len(log.read_text().splitlines())
    finally:
        server.kill()
        server.communicate()
