"""How fast rows become tokens, and tokens become batches.

    python -m benchmarks.data [--output=data.json]

Prints JSON. Tokenising: our way from a file of conversations to a planned cache entry (reading,
template, tokens, masks, writing, packing) against `tokenizers.encode_batch` alone on the same texts
in memory, each the best of several alternating rounds. Batches: tokens a second from a warm cache.
"""

import json
import pathlib
import tempfile
import time
from collections.abc import Callable

from absl import app, flags

from belle_jax import config, data
from belle_jax.data import record_reader, tokenizer

SHARED = flags.DEFINE_string('shared', '../shared', 'Folder of the shared test files.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the JSON to this file.')
ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds of each; the best counts.')

FILES = (
    'belle/dev1K.json',
    'instructions/alpaca_zh_demo.json',
    'instructions/ruozhiba_qa2449_gpt4t.json',
    'instructions/sharegpt_zh_1K_format.jsonl',
)


def main(_: list[str]) -> None:
    shared = pathlib.Path(SHARED.value) / 'data'
    if not shared.is_dir():
        raise ValueError(f'--shared={SHARED.value} has no folder data: give the shared files.')
    made = tokenizer.load(shared / 'tokenizers' / 'zh_bpe_6400')
    with tempfile.TemporaryDirectory() as folder:
        result = measure(pathlib.Path(folder), shared, made, ROUNDS.value)
    text = json.dumps(result, indent=2)
    print(text)
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).write_text(text + '\n', 'utf-8')


def measure(
    folder: pathlib.Path, shared: pathlib.Path, made: tokenizer.Tokenizer, rounds: int
) -> dict:
    """Runs both measurements.

    Args:
        folder: Where the cache goes.
        shared: The shared files' folder `data`.
        made: The tokenizer.
        rounds: Of each measurement.
    Returns:
        Rates in tokens a second, and their ratio.
    """
    path = folder / 'rows.jsonl'
    rows = [r for file in FILES for r in record_reader.RecordReader(str(shared / file), 'skip')]
    path.write_text(
        '\n'.join(json.dumps({'messages': r.messages}, ensure_ascii=False) for r in rows), 'utf-8'
    )
    template = data.Template('belle', made)
    # What encode_batch gets is the same text, a whole conversation each.
    texts = [
        ''.join(p.content for p in template.pieces(r.messages) if isinstance(p.content, str))
        for r in rows
    ]
    theirs = sum(len(e.ids) for e in made.backend.encode_batch(texts, add_special_tokens=False))
    run = config.Run(data=config.Data(path=str(path), cache_dir='', seq_len=1024))
    best = {'ours': float('inf'), 'encode_batch': float('inf')}
    prepared = None
    for number in range(rounds):
        # Taken in turns, so that other work on the machine slows both alike.
        took = _seconds(lambda: made.backend.encode_batch(texts, add_special_tokens=False))
        best['encode_batch'] = min(best['encode_batch'], took)
        cache = folder / f'cache{number}'
        here = config.Run(data=_with_cache(run.data, cache))
        begun = time.perf_counter()
        prepared = data.prepare(here, made)
        best['ours'] = min(best['ours'], time.perf_counter() - begun)
    assert prepared is not None
    ours = int(prepared.account['sources'][0]['tokens'])
    ours += int(prepared.account['sources'][0].get('tokens_left_out', 0))
    rates = {'ours': ours / best['ours'], 'encode_batch': theirs / best['encode_batch']}
    return {
        'rows': len(rows),
        'tokens': ours,
        'tokenise_and_pack_tokens_per_second': round(rates['ours']),
        'encode_batch_tokens_per_second': round(rates['encode_batch']),
        'ratio': round(rates['ours'] / rates['encode_batch'], 3),
        'packing_efficiency': prepared.account['sources'][0]['packing_efficiency'],
        'batches_tokens_per_second': round(max(_batches(prepared.train) for _ in range(rounds))),
    }


def _with_cache(values: config.Data, cache: pathlib.Path) -> config.Data:
    return config.Data(path=values.path, cache_dir=str(cache), seq_len=values.seq_len)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _batches(plan: data.Plan) -> float:
    """Tokens a second that are not padding, through the loader, over two epochs."""
    plan = plan.until(2)
    begun, tokens = time.perf_counter(), 0
    for batch in data.load(plan):
        tokens += int((batch['segment_ids'] > 0).sum())
    return tokens / (time.perf_counter() - begun)


if __name__ == '__main__':
    app.run(main)
