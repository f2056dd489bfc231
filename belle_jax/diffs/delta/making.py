"""Making the difference of two models.

Tensors are compared by name, so that neither shards nor the files' formats matter, block by block
in several threads; memory holds a few blocks for each thread.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax.diffs.delta import compare as delta_compare
from belle_jax.diffs.delta import format as delta_format
from belle_jax.diffs.delta.ahead import ahead
from belle_jax.diffs.delta.compare import sha256
from belle_jax.diffs.delta.format import Base, Entry
from belle_jax.diffs.delta.writer import Writer
from belle_jax.files import new_directory, require_new
from belle_jax.formats import huggingface
from belle_jax.progress import Progress
from belle_jax.weights import shards
from belle_jax.weights.safetensors import NAMES
from belle_jax.weights.tensors import Stored, map_file

# Level 3 finds repetitions that mean nothing and gives more bytes; 19 saves 2 to 9 % of them in 30
# times the time (benchmarks/results/delta_cpu.json).
LEVEL = 1
# Up to so many bytes a file is carried even if the base has the same: of settings, unlike of
# vocabularies, another copy of the base may have others.
SETTINGS = 2**16
Triple = tuple[str, np.ndarray, Stored | None]  # name, values, the base's


def make(
    base: str | Path,
    tuned: str | Path,
    target: str | Path,
    max_shard_size: int = 5 * 10**9,
    level: int = LEVEL,
    threads: int = 0,
) -> Path:
    """Writes what must be added to the base to get the tuned model.

    Args:
        base: Hugging Face directory or hub name of the model that others have.
        tuned: That of the model which was made from it.
        target: A directory that does not exist yet, or is empty; it appears when it is complete.
        max_shard_size: Bytes of a data file.
        level: Of zstandard, 1 to 22.
        threads: That compress; 0 for one a processor.
    Returns:
        The target.
    Raises:
        ValueError: a directory is no model, or the tuned model is not made from this base.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    if level not in delta_format.LEVELS:
        raise ValueError(f'--level={level} is no level of zstandard: give 1 to 22.')
    called = Path(base).resolve().name if Path(base).exists() else str(base)
    base, tuned = huggingface.resolve(base), huggingface.resolve(tuned)
    bases = shards.read(base)
    tensors = [
        (name, t.array, delta_compare.reference(t, bases)) for name, t in shards.read(tuned).items()
    ]
    total = sum(array.nbytes for _, array, _ in tensors)
    whole = sum(array.nbytes for _, array, theirs in tensors if not theirs)
    if 2 * whole > total or not any(theirs for _, _, theirs in tensors):
        raise ValueError(
            f'--base={base} lacks tensors that are {whole / max(1, total):.0%} of --tuned={tuned}, '
            'and would have to be carried whole: give the base from which it was made, with the '
            'same names.'
        )
    files, left_out = delta_compare.small_files(tuned)
    for name in left_out:
        print(f'Passed over: {name}, which is neither settings nor vocabulary nor weights.')
    with new_directory(target, 0) as partial:
        writer = Writer(partial, max_shard_size)
        try:
            size = _write(writer, called, base, tensors, files, level, threads)
        finally:
            writer.close()
    _account(tensors, size)
    return Path(target)


def _write(
    writer: Writer,
    called: str,
    base: Path,
    tensors: list[Triple],
    files: list[Path],
    level: int,
    threads: int,
) -> int:
    """Compresses everything; returns the bytes of the delta."""
    local = threading.local()

    def compress(array: np.ndarray, theirs: Stored | None, start: int) -> bytes:
        if not hasattr(local, 'compressor'):
            local.compressor = delta_format.compressor(level)
        first = start // array.itemsize
        numbers = delta_compare.flat(array, first, first + delta_format.BLOCK // array.itemsize)
        against = theirs.array if theirs else None
        facing = delta_compare.facing(against, numbers.dtype, first, len(numbers))
        return delta_format.encode(numbers, facing, local.compressor)

    def tasks() -> Iterator[Callable[[], Any]]:
        for _, array, theirs in everything:
            yield lambda a=array: sha256(a)
            if theirs:
                yield lambda a=theirs.array: sha256(a)
            for start in range(0, array.nbytes, delta_format.BLOCK):
                yield lambda a=array, b=theirs, s=start: compress(a, b, s)

    same = [path for path in files if _is_same(path, base / path.name)]
    carried: list[Triple] = [(p.name, map_file(p), None) for p in files if p not in same]
    everything = tensors + carried
    progress = Progress('Making the delta', 'MB')
    done, total = 0, sum(array.nbytes for _, array, _ in everything)
    entries = []
    with ahead(tasks(), threads) as results:
        for name, array, theirs in everything:
            digest = next(results)
            compared = None
            if theirs:
                b = theirs.array
                compared = Base(theirs.name, NAMES[b.dtype], b.shape, next(results))
            sizes = []
            for start in range(0, array.nbytes, delta_format.BLOCK):
                sizes.append(writer.add(next(results)))
                done += min(delta_format.BLOCK, array.nbytes - start)
                progress.show(done // 10**6, done / total)
            dtype = NAMES[array.dtype]
            entries.append(Entry(name, dtype, array.shape, digest, compared, tuple(sizes)))
    progress.end(done // 10**6)
    others = [
        Entry(p.name, 'U8', (p.stat().st_size,), sha256(map_file(p)), None, None) for p in same
    ]
    count = len(tensors)
    return writer.finish(called, entries[:count], entries[count:] + others)


def _is_same(path: Path, theirs: Path) -> bool:
    size = path.stat().st_size
    if size <= SETTINGS or not theirs.is_file() or theirs.stat().st_size != size:
        return False
    return sha256(map_file(path)) == sha256(map_file(theirs))


def _account(tensors: list[Triple], size: int) -> None:
    """What the person who publishes the delta should know."""
    total = sum(array.nbytes for _, array, _ in tensors)
    whole = [(name, array.nbytes) for name, array, theirs in tensors if not theirs]
    for name, count in whole[:10]:
        print(f'Carried whole: {name}, {count:,} bytes, which the base lacks.')
    if rest := whole[10:]:
        print(f'Carried whole: {len(rest)} more, {sum(count for _, count in rest):,} bytes.')
    print(f'{size / 1e6:,.1f} MB for weights of {total / 1e6:,.1f} MB: {size / total:.1%}.')
