"""Runs against the test server, in processes of their own, killed at random moments.

What `kill_at_random_moments` proves holds for any program that keeps a journal: nothing that is in
the journal is asked again, and a kill loses at most what was in flight. As a program this file is
such a run, at the level of `belle_jax.api`:

    PYTHONPATH=tests/support python -m api_runs JOURNAL URL REQUESTS CONCURRENCY OUTPUT
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import programs  # noqa: E402
from api_server import body_key  # noqa: E402 (found as a program too)
from belle_jax.api import Client, Journal, Reply, Request, Retries, ask_all  # noqa: E402


class ServerProcess:
    """The test server in a process of its own, while its context is open.

    Attributes:
        url: Its base URL.
    """

    def __init__(self, log: Path, *flags: str) -> None:
        """Starts nothing yet.

        Args:
            log: Where its log goes.
            flags: Of api_server.
        """
        self._log = log
        self._command = [
            sys.executable,
            str(ROOT / 'tests/support/api_server.py'),
            f'--log={log}',
            *flags,
        ]

    def __enter__(self) -> 'ServerProcess':
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def lines(self) -> list[dict]:
        """The log so far; a last line that is being written is left out."""
        text = self._log.read_text() if self._log.exists() else ''
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == '\n']


def kill_at_random_moments(
    start: Callable[[], subprocess.Popen | programs.Heard],
    server: ServerProcess,
    journal: Path,
    *,
    kills: int,
    requests: int,
    concurrency: int,
    chance: random.Random,
) -> None:
    """Starts a run again and again and kills it, but for the last time.

    Args:
        start: Starts the run, which continues its journal.
        server: That it asks.
        journal: The run's.
        kills: How often it is killed.
        requests: About as many as it asks in all; the moments are spread over them.
        concurrency: The run's.
        chance: Where the moments come from.
    Raises:
        AssertionError: if anything journaled was asked again, if a kill lost more than was in
            flight, or if the last run fails.
    """
    answered: set[str] = set()
    for number in range(kills + 1):
        begun = len(server.lines())
        run = start()
        if number < kills:
            wanted = begun + chance.randint(1, max(2, 2 * requests // (kills + 1)))
            while len(server.lines()) < wanted and run.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.05))
            run.send_signal(signal.SIGKILL)
        run.communicate()
        if number == kills:
            assert run.returncode == 0
        lines = server.lines()[begun:]
        asked_again = answered & {line['key'] for line in lines}
        assert not asked_again, f'{len(asked_again)} requests were paid for twice'
        with Journal(journal) as kept:
            now = {body_key(asked.body) for asked, reply in kept.entries() if not reply.error}
        assert answered <= now, 'the journal has lost replies'
        lost = {line['key'] for line in lines if line['what'] == 'ok'} - now
        assert len(lost) <= concurrency, f'a kill lost {len(lost)} replies'
        answered = now


def driver(journal: Path, url: str, requests: int, concurrency: int, output: Path) -> list[str]:
    """The command of a run that writes what it used, in order, to the output at its end."""
    words = [journal, url, requests, concurrency, output]
    return [sys.executable, '-m', 'api_runs', *(str(word) for word in words)]


def environment() -> dict[str, str]:
    """Of a run: with a key, without the settings of whoever tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith('OPENAI_')}
    return kept | {'OPENAI_API_KEY': 'sk-test-0123456789abcdefghij', 'JAX_PLATFORMS': 'cpu'}


def _requests(count: int) -> Iterator[Request]:
    for index in range(count):
        messages = [{'role': 'user', 'content': f'请写出十个任务。第{index}批\n###\n4. 指令:'}]
        yield Request(index, {'model': 'test', 'messages': messages, 'max_tokens': 900})


async def _run(journal: str, url: str, requests: int, concurrency: int, output: str) -> None:
    used: list[Reply] = []

    def use(reply: Reply) -> bool:
        used.append(reply)
        return False

    # Short times: the server hangs and fails on purpose.
    retries = Retries(first_delay=0.05, attempt_timeout=2.0)
    with Journal(journal, {'requests': 'v1'}) as kept:
        async with Client(url, retries=retries) as client:
            await ask_all(_requests(requests), client, kept, concurrency=concurrency, use=use)
    rows = [[reply.index, reply.text, reply.finish_reason, reply.error] for reply in used]
    Path(output).write_text(json.dumps(rows, ensure_ascii=False), 'utf-8')


if __name__ == '__main__':
    asyncio.run(_run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
