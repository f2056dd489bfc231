"""Making the difference of two models.

Tensors are compared by name, so that neither shards nor the files' formats matter, block by block
in several threads; memory holds a few blocks for each thread.
"""

import dataclasses
import filecmp
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from belle_jax.diffs.delta import blocks, manifest
from belle_jax.diffs.delta.blocks import ahead, sha256
from belle_jax.diffs.delta.manifest import Carried, Tensor
from belle_jax.families import FAMILIES, HEAD
from belle_jax.files import new_directory, require_new, write_text
from belle_jax.formats import huggingface
from belle_jax.progress import Progress
from belle_jax.weights import shards
from belle_jax.weights.safetensors import NAMES
from belle_jax.weights.tensors import Stored, map_file, proven

# Level 3 finds repetitions that mean nothing and gives more bytes; 19 saves 2 to 9 % of them in 30
# times the time (benchmarks/results/delta_cpu.json).
LEVEL = 1
# Up to that many bytes a file is carried even if the base has the same: of settings, unlike of
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
    ignore_crc: bool = False,
) -> Path:
    """Writes what must be added to the base to get the tuned model.

    Args:
        base: Hugging Face directory or hub name of the model that others have.
        tuned: That of the model which was made from it.
        target: A directory that does not exist yet, or is empty; it appears when it is complete.
        max_shard_size: Bytes of a data file.
        level: Of zstandard, 1 to 22.
        threads: That compress; 0 for one a processor.
        ignore_crc: Whether `.bin` files whose checksums are wrong are taken.
    Returns:
        The target.
    Raises:
        ValueError: a directory is not a model, or the tuned model is not made from this base.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    if level not in blocks.LEVELS:
        raise ValueError(f'--level={level} is not a level of zstandard: give 1 to 22.')
    called = Path(base).resolve().name if Path(base).exists() else str(base)
    base, tuned = huggingface.resolve(base), huggingface.resolve(tuned)
    bases = shards.read(base)
    tuned_tensors = shards.read(tuned)
    tensors = [(name, t.array, reference(t, bases)) for name, t in tuned_tensors.items()]
    used = [theirs for _, _, theirs in tensors if theirs]
    stored = [] if ignore_crc else [*tuned_tensors.values(), *used]
    total = sum(array.nbytes for _, array, _ in tensors)
    whole = sum(array.nbytes for _, array, theirs in tensors if not theirs)
    if 2 * whole > total or not any(theirs for _, _, theirs in tensors):
        raise ValueError(
            f'--base={base} lacks tensors that are {whole / max(1, total):.0%} of --tuned={tuned}, '
            'and would have to be carried whole: give the base from which it was made, with the '
            'same names.'
        )
    files, left_out = small_files(tuned)
    for name in left_out:
        print(f'Passed over: {name}, which is neither settings nor vocabulary nor weights.')
    with (
        new_directory(target, 0) as partial,
        proven(stored),
        DeltaWriter(partial, max_shard_size) as writer,
    ):
        size = _write(writer, called, base, tensors, files, level, threads)
    _account(tensors, size)
    return Path(target)


def _write(
    writer: 'DeltaWriter',
    called: str,
    base: Path,
    tensors: list[Triple],
    files: list[Path],
    level: int,
    threads: int,
) -> int:
    """Compresses everything; returns the bytes of the delta."""
    both = [p for p in files if p.stat().st_size > SETTINGS and (base / p.name).is_file()]
    same = [p for p in both if filecmp.cmp(p, base / p.name, shallow=False)]
    carried: list[Triple] = [(p.name, map_file(p), None) for p in files if p not in same]
    everything = tensors + carried
    progress = Progress('Making the delta', 'MB')
    done, total = 0, sum(array.nbytes for _, array, _ in everything)
    entries = []
    with ahead(_tasks(everything, level), threads) as results:
        for name, array, theirs in everything:
            digest = next(results)
            compared = None
            if theirs:
                b = theirs.array
                compared = Tensor(theirs.name, NAMES[b.dtype], b.shape, next(results))
            sizes = []
            for start in range(0, array.nbytes, blocks.BLOCK):
                sizes.append(writer.add(next(results)))
                done += min(blocks.BLOCK, array.nbytes - start)
                progress.show(done // 10**6, done / total)
            dtype = NAMES[array.dtype]
            entries.append(Carried(name, dtype, array.shape, digest, compared, tuple(sizes)))
    progress.end(done // 10**6)
    others = [
        Carried(p.name, 'U8', (p.stat().st_size,), sha256(map_file(p)), None, None) for p in same
    ]
    count = len(tensors)
    return writer.finish(called, entries[:count], entries[count:] + others)


def _tasks(everything: list[Triple], level: int) -> Iterator[Callable[[], Any]]:
    """What threads do: for each tensor its digest, that of the base's, and its blocks."""
    for _, array, theirs in everything:
        yield lambda a=array: sha256(a)
        if theirs:
            yield lambda a=theirs.array: sha256(a)
        for start in range(0, array.nbytes, blocks.BLOCK):
            yield lambda a=array, b=theirs, s=start: blocks.encode(a, b, s, level)


def _account(tensors: list[Triple], size: int) -> None:
    """What the person who publishes the delta should know."""
    total = sum(array.nbytes for _, array, _ in tensors)
    whole = [(name, array.nbytes) for name, array, theirs in tensors if not theirs]
    for name, count in whole[:10]:
        print(f'Carried whole: {name}, {count:,} bytes, which the base lacks.')
    if rest := whole[10:]:
        print(f'Carried whole: {len(rest)} more, {sum(count for _, count in rest):,} bytes.')
    print(f'{size / 1e6:,.1f} MB for weights of {total / 1e6:,.1f} MB: {size / total:.1%}.')


def reference(tensor: Stored, bases: Mapping[str, Stored]) -> Stored | None:
    """The base's tensor that a tuned one is compared with; None: it is carried whole.

    One of that name that it cannot be compared with is a ValueError.
    """
    found = named(tensor.name, bases)
    if found is None and tensor.name == HEAD:
        # A tied base has no output table of its own; the tuned one began as its embedding, which
        # carrying it whole would publish.
        found = next((f for f in (named(k.embedding, bases) for k in FAMILIES.values()) if f), None)
    if found is None:
        return None
    ours, theirs = tensor.array, found.array
    both_float = ours.dtype.kind in 'fV' and theirs.dtype.kind in 'fV'  # V: bfloat16
    if manifest.comparable(ours.shape, theirs.shape) and (both_float or ours.dtype == theirs.dtype):
        return found
    if any(k.buffers.fullmatch(tensor.name.removeprefix(k.prefix)) for k in FAMILIES.values()):
        return None  # computed from the configuration: nobody's weights
    raise ValueError(
        f'{tensor.place} is {ours.dtype} of shape {list(ours.shape)}, but {found.place} is '
        f'{theirs.dtype} of shape {list(theirs.shape)}: only the number of rows and the kind of '
        'floating-point number may differ, and carrying it whole could publish the base. Give the '
        'base that it was made from.'
    )


def named(name: str, tensors: Mapping[str, Stored]) -> Stored | None:
    """A tensor by its name, or by its name with or without a family's prefix."""
    for prefix in ('', *(family.prefix for family in FAMILIES.values())):
        for candidate in (prefix + name, name.removeprefix(prefix)):
            if candidate in tensors:
                return tensors[candidate]
    return None


def small_files(directory: Path) -> tuple[list[Path], list[str]]:
    """A model's files beside its weights that a delta has, and the names of those left out."""
    _, weights = shards.find(directory)
    files, left_out = [], []
    for path in sorted(directory.iterdir()):
        if path.is_file() and manifest.is_carried(path.name):
            files.append(path)
        elif path not in weights and not path.name.endswith('.index.json'):
            left_out.append(path.name)
    return files, left_out


class DeltaWriter:
    """Writes the files of blocks, and at last the manifest; for a directory that appears whole."""

    def __init__(self, directory: Path, max_size: int) -> None:
        """Takes an existing directory, and the bytes that a file of blocks may have."""
        self._directory, self._max_size = directory, max_size
        self._data: list[dict[str, Any]] = []  # as the manifest has them
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:  # after an error
            self._file.close()

    def add(self, block: bytes) -> int:
        """Appends a compressed block; returns its size."""
        if not self._file or self._size + len(block) > self._max_size:
            self._end()
            path = self._directory / f'delta-{len(self._data) + 1:05d}.zst'
            self._file, self._hash, self._size = path.open('wb'), hashlib.sha256(), 0
        self._file.write(block)
        self._hash.update(block)
        self._size += len(block)
        return len(block)

    def finish(self, base: str, tensors: Sequence[Carried], files: Sequence[Carried]) -> int:
        """Writes the manifest; returns the bytes of the whole delta."""
        self._end()
        values = {
            'format': manifest.FORMAT,
            'version': manifest.VERSION,
            'base': base,
            'block': blocks.BLOCK,
            'data': self._data,
            'tensors': [dataclasses.asdict(t) for t in tensors],
            'files': [
                {'name': f.name, 'size': f.size, 'sha256': f.sha256, 'blocks': f.blocks}
                for f in files
            ],
        }
        text = json.dumps({'sha256': manifest.digest(values)} | values) + '\n'
        write_text(self._directory / manifest.NAME, text)
        return sum(d['size'] for d in self._data) + len(text.encode())

    def _end(self) -> None:
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            name, digest = Path(self._file.name).name, self._hash.hexdigest()
            self._data.append({'name': name, 'size': self._size, 'sha256': digest})
            self._file = None
