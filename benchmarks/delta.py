"""How small a delta is and how long it takes, next to BELLE's .enc and to plain zstandard.

    python -m benchmarks.delta --base=models/base --tuned=models/sft [--output=delta.json]

--tuned may name several models, with one base or one for each. Prints JSON: bytes, their ratio to
the tuned model's weight files, and seconds, on all processors. A delta is made at three levels and
applied, and the result compared bit by bit; also what the first would be without ordering and
without planes. `.enc` is made by belle_jax.diffs.xor; its key is the base's first weight file.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from absl import app, flags

from belle_jax.diffs.delta import apply, blocks, make, making
from belle_jax.diffs.xor import cipher
from belle_jax.weights import shards

BASE = flags.DEFINE_list('base', None, 'Directory of the base; one, or one for each of --tuned.')
TUNED = flags.DEFINE_list('tuned', None, 'Directories of models made from it.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the JSON to this file.')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Rounds of the fast ones; the best counts.')

LEVELS = (1, 3, 19)


def main(argv: list[str]) -> None:
    """Measures every pair and prints JSON."""
    del argv
    bases, models = BASE.value or [], TUNED.value or []
    bases = bases * len(models) if len(bases) == 1 else bases
    pairs = [measure(Path(b), Path(t)) for b, t in zip(bases, models, strict=True)]
    text = json.dumps({'benchmark': 'delta', 'pairs': pairs}, indent=2)
    print(text)
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(text + '\n', 'utf-8')


def measure(base: Path, tuned: Path) -> dict[str, Any]:
    """All figures of one pair."""
    _, files = shards.find(tuned)
    size = sum(f.stat().st_size for f in files)

    def result(count: int, took: float) -> dict[str, float]:
        return {'bytes': count, 'ratio': round(count / size, 4), 'seconds': round(took, 2)}

    report: dict[str, Any] = {'base': base.name, 'tuned': tuned.name, 'file_bytes': size}
    report |= movement(base, tuned)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for level in LEVELS:
            rounds = ROUNDS.value if level < 10 else 1
            targets = [here / f'{level}-{n}' for n in range(rounds)]
            took = min(seconds(lambda t=t, n=level: make(base, tuned, t, level=n)) for t in targets)
            count = sum(p.stat().st_size for p in targets[0].iterdir())
            report[f'delta_{level}'] = result(count, took)
        report['unordered_bytes'] = without(base, tuned, planes=True)
        report['xor_alone_bytes'] = without(base, tuned, planes=False)
        made = here / f'{LEVELS[0]}-0'
        took = min(
            seconds(lambda n=n: apply(base, made, here / f'out{n}')) for n in range(ROUNDS.value)
        )
        report['apply'] = {'seconds': round(took, 2), 'exact': equal(tuned, here / 'out0')}
        count = sum(f.stat().st_size + cipher.DIGEST for f in files)
        took = min(seconds(lambda: encrypt(base, files, here / 'enc')) for _ in range(ROUNDS.value))
        report['enc'] = result(count, took)
        for level in (3, 19):
            begun = time.perf_counter()
            count = sum(plain(f, level) for f in files)
            report[f'zstandard_{level}'] = result(count, time.perf_counter() - begun)
    return report


def movement(base: Path, tuned: Path) -> dict[str, Any]:
    """What share of the numbers differs, and by how much of their size they moved."""
    theirs, numbers, changed, moved, norm = shards.read(base), 0, 0, 0.0, 0.0
    for tensor in shards.read(tuned).values():
        if other := making.reference(tensor, theirs):
            ours = tensor.array
            before = other.array[: len(ours)].astype(ours.dtype)
            after = ours[: len(before)]
            numbers += before.size
            changed += int((after != before).sum())
            difference = after.astype(np.float32) - before.astype(np.float32)
            moved += float((difference**2).sum())
            norm += float((before.astype(np.float32) ** 2).sum())
    return {
        'numbers': numbers,
        'changed': round(changed / numbers, 4),
        'relative_movement': float(f'{(moved / norm) ** 0.5:.3g}'),
    }


def without(base: Path, tuned: Path, planes: bool) -> int:
    """Bytes of the same blocks at the first level, unordered, with or without planes."""
    theirs, count = shards.read(base), 0
    compressor = zstandard.ZstdCompressor(LEVELS[0], write_checksum=True)
    for tensor in shards.read(tuned).values():
        other, array = making.reference(tensor, theirs), tensor.array
        step = blocks.BLOCK // array.itemsize
        for start in range(0, array.size, step):
            numbers = blocks.flat(array, start, start + step)
            facing = blocks.facing(other, array.dtype, start, len(numbers))
            bits = numbers.view(np.uint8)
            if facing is not None:
                bits = bits ^ facing.view(np.uint8)
            if planes:
                bits = np.ascontiguousarray(bits.reshape(-1, array.itemsize).T)
            count += len(compressor.compress(bits.data))
    return count


def encrypt(base: Path, files: list[Path], target: Path) -> None:
    """BELLE's form of the weight files."""
    _, keys = shards.find(base)
    target.mkdir(exist_ok=True)
    with cipher.Key(keys[0]) as key:
        for file in files:
            digest = cipher.digest(file, lambda _: None)
            cipher.encrypt(file, digest, key, target / file.name, lambda _: None)


def plain(file: Path, level: int) -> int:
    """Bytes of a file that is compressed as it is, in as many threads as there are processors."""
    compressor = zstandard.ZstdCompressor(level=level, threads=-1)
    return len(compressor.compress(file.read_bytes()))


def equal(tuned: Path, restored: Path) -> bool:
    """Whether both directories hold the same tensors, to the bit."""
    ours, theirs = shards.read(restored), shards.read(tuned)
    return list(ours) == list(theirs) and all(
        ours[n].array.dtype == theirs[n].array.dtype
        and ours[n].array.tobytes() == theirs[n].array.tobytes()
        for n in ours
    )


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == '__main__':
    flags.mark_flags_as_required(['base', 'tuned'])
    app.run(main)
