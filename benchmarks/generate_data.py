"""Our own work for each generated task: parsed, filtered, compared with a large pool, journaled.

    python -m benchmarks.generate_data [--pool=52000] [--replies=400] [--output=generate_data.json]

Prints JSON, in milliseconds of processor time for a task of a reply, kept or not. Replies are in
BELLE's format, their tasks real ones' pieces in other combinations (`benchmarks.recombine`). No
server: its time is not ours.
"""

import json
import pathlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags

from belle_jax.api import Journal, Reply, Request
from belle_jax.synthesis import kinds
from belle_jax.synthesis.harvest import Harvest
from belle_jax.synthesis.settings import Settings
from belle_jax.synthesis.sources import read_seeds
from belle_jax.texts.similarity import Similarity
from benchmarks import recombine

SHARED = flags.DEFINE_string('shared', '../shared', 'Folder of the shared test files.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the JSON to this file.')
POOL = flags.DEFINE_integer('pool', 52_000, 'Instructions that are there already.')
REPLIES = flags.DEFINE_integer('replies', 400, 'Replies that are measured.')
TASKS = flags.DEFINE_integer('tasks', 8, 'Tasks of a reply.')
MACHINE = flags.DEFINE_string('machine', '', 'What it ran on, for the JSON.')


def main(_: list[str]) -> None:
    shared = pathlib.Path(SHARED.value) / 'data'
    if not shared.is_dir():
        raise ValueError(f'--shared={SHARED.value} has no folder data: give the shared files.')
    count = 2 * REPLIES.value * TASKS.value
    texts = list(recombine.instructions(shared, POOL.value + count))
    pool = Similarity('rouge', 'characters', None, False, texts[: POOL.value])
    asked = list(replies(shared, texts[POOL.value :]))
    half = len(asked) // 2
    result: dict[str, Any] = {
        'benchmark': 'generate_data',
        'machine': MACHINE.value,
        'pool': POOL.value,
        'tasks_per_reply': TASKS.value,
        'journal': journal(asked[:half]),
        'harvest': harvest(pool, asked[:half], listed=False),
        'harvest_with_neighbours': harvest(pool, asked[half:], listed=True),
    }
    result['all_ms_per_task'] = {
        name: round(result['journal']['ms_per_task'] + result[harvested]['ms_per_task'], 3)
        for name, harvested in (
            ('without_neighbours', 'harvest'),
            ('with_neighbours', 'harvest_with_neighbours'),
        )
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).write_text(text + '\n', 'utf-8')


def replies(shared: pathlib.Path, texts: list[str]) -> Iterator[Reply]:
    """The texts as tasks in BELLE's format, with answers, and inputs for four in ten."""
    chance = random.Random(0)
    _, clauses = recombine.pieces(shared, recombine.CHINESE)
    for index in range(0, len(texts), TASKS.value):
        pieces = []
        for number, text in enumerate(texts[index : index + TASKS.value], 4):
            given = '，'.join(chance.choices(clauses, k=4)) if chance.random() < 0.4 else '<无输入>'
            answer = '，'.join(chance.choices(clauses, k=chance.randint(3, 24))) + '。'
            instruction = ' '.join(text.split())
            pieces.append(
                f'{number}. 指令: {instruction}\n{number}. 输入:\n{given}\n'
                f'{number}. 输出:\n{answer}\n'
            )
        text = '###\n'.join(pieces)
        yield Reply(index // TASKS.value, text, 'stop', 900, len(text), 0.001)


def journal(asked: list[Reply]) -> dict[str, Any]:
    """Puts all replies, as fast as the disk takes them."""
    body = {'model': 'test', 'prompt': '请给出十个任务。' * 150, 'max_tokens': 1024}
    with (
        tempfile.TemporaryDirectory() as folder,
        Journal(pathlib.Path(folder) / 'journal.sqlite', {'benchmark': 1}) as kept,
    ):
        begun, clock = time.process_time(), time.perf_counter()
        waiting = [kept.put(Request(reply.index, body), reply) for reply in asked]
        for done in waiting:
            done.result()
        took, passed = time.process_time() - begun, time.perf_counter() - clock
    tasks = len(asked) * TASKS.value
    return {'ms_per_task': ms(took, tasks), 'wall_ms_per_task': ms(passed, tasks)}


def harvest(pool: Similarity, asked: list[Reply], listed: bool) -> dict[str, Any]:
    """Makes rows of replies, with the times of the parts."""
    pool.listed = listed
    kind = kinds.make('self_instruct', Settings(seeds=read_seeds()))
    parts: dict[str, float] = {}
    kind.parse = timed(kind.parse, 'parse', parts)
    rules = [rule._replace(apply=timed(rule.apply, 'filter', parts)) for rule in kind.rules]
    found = Harvest(kind, pool, None, rules)
    compare = ('too_near', 'fields', 'add')
    try:
        for name in compare:
            setattr(pool, name, timed(getattr(pool, name), name, parts))
        begun = time.process_time()
        for reply in asked:
            found.use(reply)
        took = time.process_time() - begun
    finally:
        for name in compare:
            delattr(pool, name)
    tasks = len(found.kept) + found.rejected.total()
    return {
        'tasks': tasks,
        'kept': len(found.kept),
        'rejected': dict(found.rejected.most_common()),
        'ms_per_task': ms(took, tasks),
        'parts_ms_per_task': {name: ms(seconds, tasks) for name, seconds in parts.items()},
    }


def timed(function: Callable, name: str, parts: dict[str, float]) -> Callable:
    """The function, which adds the time that it takes to its part."""

    def run(*arguments):
        begun = time.process_time()
        try:
            return function(*arguments)
        finally:
            parts[name] = parts.get(name, 0.0) + time.process_time() - begun

    return run


def ms(seconds: float, tasks: int) -> float:
    """Milliseconds for one task."""
    return round(1000 * seconds / max(1, tasks), 3)


if __name__ == '__main__':
    app.run(main)
