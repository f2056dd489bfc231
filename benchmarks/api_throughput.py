"""Requests a second against a server that takes two seconds for each.

    python -m benchmarks.api_throughput [--seconds=60] [--concurrency=256] [--output=api.json]

Prints JSON. The server runs in a process of its own on the same cores; replies of some 700
characters go through client, journal and ordered use, as in a real run. The limit is concurrency /
delay requests a second: `sustained` counts the replies in the journal from the first one on, for
--seconds; `whole` counts from the first request, whose reply takes one delay.
"""

import asyncio
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags

from belle_jax import api

SECONDS = flags.DEFINE_float('seconds', 60.0, 'How long is measured.')
CONCURRENCY = flags.DEFINE_integer('concurrency', 256, 'Requests in flight.')
DELAY = flags.DEFINE_float('delay', 2.0, 'Seconds that the server takes for a reply.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the JSON to this file.')

SERVER = pathlib.Path(__file__).resolve().parent.parent / 'tests' / 'support' / 'api_server.py'
# About as long as BELLE's prompt with three seed tasks.
PROMPT = '请给出十个多样化的任务指令，用于评估语言模型。要求如下：语言清楚，类型各不相同。' * 20


def main(_: list[str]) -> None:
    command = [sys.executable, str(SERVER), f'--delay={DELAY.value}']
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as folder:
            result = asyncio.run(
                measure(url, pathlib.Path(folder), SECONDS.value, CONCURRENCY.value, DELAY.value)
            )
    finally:
        server.kill()
        server.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result['server_cpu_ms_per_request'] = round(
        (used.ru_utime + used.ru_stime) * 1e3 / result['replies'], 3
    )
    text = json.dumps(result, indent=2)
    print(text)
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).write_text(text + '\n', 'utf-8')


async def measure(
    url: str, folder: pathlib.Path, seconds: float, concurrency: int, delay: float
) -> dict:
    """Asks for as long as is measured.

    Args:
        url: Of the server.
        folder: For the journal.
        seconds: From the first reply on.
        concurrency: Requests in flight.
        delay: Of the server, in seconds.
    Returns:
        Rates in replies a second, and our CPU time.
    """
    moments: list[float] = []
    characters = 0

    def use(reply: api.Reply) -> bool:
        nonlocal characters
        assert not reply.error, reply.error
        characters += len(reply.text)
        moments.append(time.monotonic())
        return moments[-1] - moments[0] >= seconds

    begun, cpu = time.monotonic(), time.process_time()
    with api.Journal(folder / 'journal.sqlite', {'benchmark': 1}) as journal:
        async with api.Client(url) as client:
            await api.ask_all(requests(), client, journal, concurrency=concurrency, use=use)
        replies = len(journal)
    cpu = time.process_time() - cpu
    possible = concurrency / delay
    counted = sum(moment <= moments[0] + seconds for moment in moments)
    sustained = counted / seconds
    whole = len(moments) / (moments[-1] - begun)
    return {
        'seconds': seconds,
        'concurrency': concurrency,
        'possible_per_s': possible,
        'sustained_per_s': round(sustained, 2),
        'sustained_fraction': round(sustained / possible, 4),
        'whole_per_s': round(whole, 2),
        'whole_fraction': round(whole / possible, 4),
        'replies': replies,
        'characters_per_reply': round(characters / len(moments)),
        'client_cpu_ms_per_request': round(cpu * 1e3 / replies, 3),
    }


def requests() -> Iterator[api.Request]:
    """Without end."""
    index = 0
    while True:
        content = f'{PROMPT}\n第{index}批\n###\n4. 指令:'
        body = {'model': 'test', 'messages': [{'role': 'user', 'content': content}]}
        yield api.Request(index, body | {'max_tokens': 1024, 'temperature': 1.0, 'top_p': 1.0})
        index += 1


if __name__ == '__main__':
    app.run(main)
