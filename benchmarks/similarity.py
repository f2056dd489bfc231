"""How fast near-duplicates are found, and whether all of them are.

    python -m benchmarks.similarity [--rows=1000000] [--output=similarity.json]

Prints JSON. One text against a pool; a pool built up from nothing; the decisions against those of
rouge_score (where it is installed) and of an exact LCS of another kind; hashing against comparing
exactly; a file of many rows deduplicated in a process of its own, whose memory is read. The
instructions are real ones' pieces in other combinations (`benchmarks.recombine`).
"""

import json
import multiprocessing
import pathlib
import random
import resource
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import app, flags
from tokenizers import Tokenizer

from belle_jax.synthesis.dedupe import run as dedupe
from belle_jax.texts.bm25 import BM25Index
from belle_jax.texts.minhash import MinHashIndex
from belle_jax.texts.similarity import Index
from benchmarks import recombine

SHARED = flags.DEFINE_string('shared', '../shared', 'Folder of the shared test files.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the JSON to this file.')
POOL = flags.DEFINE_integer('pool', 52_000, 'Instructions of the pool.')
ROWS = flags.DEFINE_integer('rows', 1_000_000, 'Rows of the file that is deduplicated; 0: none.')
MACHINE = flags.DEFINE_string('machine', '', 'What it ran on, for the JSON.')

THRESHOLD = 0.7
QUERIES = 300
DECISIONS = 2000
HASHED = 20_000
BLOCK = 1024


def main(_: list[str]) -> None:
    shared = pathlib.Path(SHARED.value) / 'data'
    if not shared.is_dir():
        raise ValueError(f'--shared={SHARED.value} has no folder data: give the shared files.')
    # The file first, so that its process inherits nothing that is large.
    result: dict = {'benchmark': 'similarity', 'machine': MACHINE.value, 'threshold': THRESHOLD}
    million = deduplicated(shared, ROWS.value) if ROWS.value else None
    result['pool_built'], index, queries = built(shared, POOL.value)
    result['one_text'] = asked(shared, index, queries)
    result['decisions'] = decisions(shared)
    result['hashing'] = hashing(shared)
    result['file'] = million
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).write_text(text + '\n', 'utf-8')


def built(shared: pathlib.Path, size: int) -> tuple[dict, Index, list[str]]:
    """Compares each instruction with all kept ones and adds it, until that many are kept."""
    texts = list(recombine.instructions(shared, size * 5 // 4 + QUERIES))
    index, read = Index(), 0
    begun = time.perf_counter()
    while len(index) < size:
        if index.nearest(texts[read], THRESHOLD).index < 0:
            index.add(texts[read])
        read += 1
    took = time.perf_counter() - begun
    lengths = [len(text) for text in texts[:read]]
    return {
        'kept': size,
        'compared': read,
        'seconds': round(took, 2),
        'characters_mean_median_p99': [
            round(float(np.mean(lengths)), 1),
            int(np.median(lengths)),
            int(np.quantile(lengths, 0.99)),
        ],
    }, index, texts[read : read + QUERIES]  # fmt: skip


def asked(shared: pathlib.Path, index: Index, queries: list[str]) -> dict:
    """Milliseconds for one text against the pool."""
    model = Tokenizer.from_file(str(shared / 'tokenizers' / 'zh_bpe_6400' / 'tokenizer.json'))
    bm25 = BM25Index(lambda text: model.encode(text, add_special_tokens=False).ids)
    for text in recombine.instructions(shared, len(index)):
        bm25.add(text)
    exact = [index.most_similar(query, 10) for query in queries]
    some = [index.most_similar(query, 10, 512) for query in queries]
    found = np.mean([len({*a} & {*b}) / max(1, len(a)) for a, b in zip(exact, some)])
    return {
        'pool': len(index),
        'near_a_kept_one': sum(index.nearest(q, THRESHOLD).index >= 0 for q in queries),
        'nearest_ms': milliseconds(lambda text: index.nearest(text, THRESHOLD), queries),
        'ten_most_similar_ms': milliseconds(lambda text: index.most_similar(text, 10), queries),
        'ten_most_similar_of_512_ms': milliseconds(
            lambda text: index.most_similar(text, 10, 512), queries
        ),
        'ten_most_similar_of_512_found': round(float(found), 3),
        'average_ms': milliseconds(index.average, queries),
        'bm25_model_tokens_nearest_ms': milliseconds(bm25.nearest, queries),
    }


def milliseconds(ask: Callable[[str], object], queries: list[str]) -> dict:
    """Mean, median and 99th percentile."""
    took = []
    for query in queries:
        begun = time.perf_counter()
        ask(query)
        took.append(1000 * (time.perf_counter() - begun))
    quantiles = {'median': 0.5, 'p99': 0.99}
    values = {name: float(np.quantile(took, q)) for name, q in quantiles.items()}
    return {name: round(v, 3) for name, v in {'mean': float(np.mean(took)), **values}.items()}


def decisions(shared: pathlib.Path) -> dict:
    """Growing pools, decided by the index and by comparing with everything that was kept."""
    chinese = list(recombine.instructions(shared, DECISIONS, 1))
    english = list(recombine.instructions(shared, DECISIONS, 2, recombine.ENGLISH))
    result = {'chinese_characters_exact_lcs': agreement(chinese, 'characters', exact_score, list)}
    try:
        from rouge_score import rouge_scorer, tokenizers
    except ImportError:
        return {**result, 'english_words_rouge_score': 'rouge_score is not installed'}
    split = tokenizers.DefaultTokenizer(use_stemmer=False).tokenize

    def theirs(a: list[str], b: list[str]) -> float:
        return rouge_scorer._score_lcs(a, b).fmeasure  # what Stanford's Alpaca called

    # Its rounding puts some ties with the threshold below it.
    result['english_words_rouge_score'] = agreement(
        english, 'words', lambda a, b: round(theirs(a, b), 12), split
    )
    return result


def agreement(texts: list[str], tokens: str, score: Callable, split: Callable) -> dict:
    """How often both decide alike, and how many are removed."""
    index, kept, alike, removed = Index(tokens), [], 0, 0
    begun = time.perf_counter()
    spent = 0.0
    for text in texts:
        units = split(''.join(text.lower().split()) if tokens == 'characters' else text)
        theirs = max((score(units, other) for other in kept), default=0.0) >= THRESHOLD
        before = time.perf_counter()
        ours = index.nearest(text, THRESHOLD).index >= 0
        spent += time.perf_counter() - before
        alike += ours == theirs
        removed += theirs
        if not theirs:
            index.add(text)
            kept.append(units)
    all_of_it = time.perf_counter() - begun
    return {
        'texts': len(texts),
        'alike': alike,
        'removed': removed,
        'seconds_index': round(spent, 3),
        'seconds_comparing_with_all': round(all_of_it - spent, 1),
    }


def exact_score(a: list[str], b: list[str]) -> float:
    """2 L / (m + n) with L by addition of long integers (Crochemore et al., 2001)."""
    if not a or not b:
        return 0.0
    where: dict[str, int] = {}
    for place, unit in enumerate(a):
        where[unit] = where.get(unit, 0) | 1 << place
    full = row = (1 << len(a)) - 1
    for unit in b:
        matches = row & where.get(unit, 0)
        row = (row + matches | row - matches) & full
    return 2 * (len(a) - row.bit_count()) / (len(a) + len(b))


def hashing(shared: pathlib.Path) -> dict:
    """What hashing finds of the rows that the exact index removes, by their score."""
    texts = list(recombine.instructions(shared, HASHED, 3))
    random.Random(0).shuffle(texts)
    exact, hashed = Index(), MinHashIndex(threshold=THRESHOLD)
    found: dict[float, list[bool]] = {0.7: [], 0.75: [], 0.8: [], 0.9: []}
    for begin in range(0, len(texts), BLOCK):
        hashed.prepare(texts[begin : begin + BLOCK])
        for text in texts[begin : begin + BLOCK]:
            match, other = exact.nearest(text, THRESHOLD), hashed.nearest(text)
            if match.index >= 0:
                place = max(low for low in found if low <= match.score)
                found[place].append(other.index >= 0)
            else:
                # The same pool for both, so that a miss is one miss.
                assert other.index < 0
                exact.add(text)
                hashed.add(text)
    bounds = {str(low): round(hashed.bands.recall(low), 5) for low in found}
    return {
        'rows': len(texts),
        'rows_in_a_band': hashed.bands.rows,
        'bands': hashed.bands.bands,
        'least_probability_at': bounds,
        'found_from': {
            str(low): f'{sum(hits)} of {len(hits)}' for low, hits in found.items()
        },
    }  # fmt: skip


def deduplicated(shared: pathlib.Path, rows: int) -> dict:
    """A file of that many rows, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'rows.jsonl'
        context = multiprocessing.get_context('spawn')
        for target, arguments in (
            (recombine.write, (path, shared, rows)),
            (_deduplicate, (path,)),
        ):
            process = context.Process(target=target, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise RuntimeError(f'{target.__name__} ended with {process.exitcode}.')
        result = json.loads((path.parent / 'result.json').read_text('utf-8'))
        return {'rows': rows, 'file_mb': round(path.stat().st_size / 1e6), **result}


def _deduplicate(path: pathlib.Path) -> None:
    begun = time.perf_counter()
    account = dedupe([path], path.parent / 'out.jsonl')
    took = time.perf_counter() - begun
    result = {
        'kept': account.kept,
        'same': account.same,
        'near': account.near,
        'hashing_from_kept_row': account.exact_until,
        'seconds': round(took, 1),
        'processor_seconds': round(time.process_time(), 1),
        'peak_memory_gb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    (path.parent / 'result.json').write_text(json.dumps(result), 'utf-8')


if __name__ == '__main__':
    app.run(main)
