"""Applying the difference of two models to the one to get the other back."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from belle_jax.diffs.delta import manifest, matching
from belle_jax.diffs.delta.blocks import ahead, decode, sha256
from belle_jax.diffs.delta.manifest import Carried, CodedBlock, Delta
from belle_jax.files import new_directory, require_new
from belle_jax.formats import huggingface
from belle_jax.progress import Progress
from belle_jax.weights import shards
from belle_jax.weights.safetensors import DTYPES, NAMES
from belle_jax.weights.tensors import Planned, Stored, map_file, shown


def apply(
    base: str | Path,
    delta: str | Path,
    target: str | Path,
    max_shard_size: int = 5 * 10**9,
    kind: str = 'safetensors',
    threads: int = 0,
) -> Path:
    """Writes the tuned model, equal to the bit to the one that the delta was made of.

    The delta and the base are checked before anything is written, and the result while it is.

    Args:
        base: Hugging Face directory or hub name of the model that the delta was made from.
        delta: What `make` wrote.
        target: A directory that does not exist yet, or is empty; it appears when it is complete.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
        threads: That decompress; 0 for one a processor.
    Returns:
        The target.
    Raises:
        ValueError: the base is another one, or something is damaged or missing; it is named.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    opened = manifest.read(Path(delta))
    base = huggingface.resolve(base)
    bases = _find(opened, base)
    _verify(opened, base, bases, threads)
    with new_directory(target, sum(e.size for e in (*opened.tensors, *opened.files))) as partial:
        _restore(opened, base, bases, partial, max_shard_size, kind, threads)
    return Path(target)


def _find(delta: Delta, directory: Path) -> dict[str, Stored]:
    """The base's tensors by the names that the delta has for them."""
    stored, found = shards.read(directory), {}
    for entry in delta.tensors:
        if not (base := entry.base) or base.name in found:
            continue
        if not (tensor := matching.named(base.name, stored)):
            raise ValueError(
                f'--base={directory} has no {base.name}: {delta.directory} was made from '
                f'{delta.called}, which has it.'
            )
        array = tensor.array
        if (NAMES[array.dtype], array.shape) != (base.dtype, base.shape):
            raise ValueError(
                f'{tensor.place} is {NAMES[array.dtype]} of shape {list(array.shape)}, but '
                f'{delta.directory} was made from {delta.called}, where it is {base.dtype} of '
                f'shape {list(base.shape)}.'
            )
        found[base.name] = tensor
    return found


def _verify(delta: Delta, base: Path, bases: dict[str, Stored], threads: int) -> None:
    """Reads the delta and the base once, before anything is written."""
    other = f'is not what {delta.directory} was made from: give {delta.called}, undamaged'
    digests = {e.base.name: e.base.sha256 for e in delta.tensors if e.base}
    wanted = [
        *((map_file(p), h, f'{p} is damaged: get it again') for p, h in delta.data.items()),
        *((t.array, digests[name], f'{t.place} {other}') for name, t in bases.items()),
    ]
    for file in delta.files:
        if file.blocks is None:
            if not (path := base / file.name).is_file():
                raise ValueError(
                    f'--base={base} has no {file.name}: {delta.directory} takes it from its base, '
                    f'{delta.called}.'
                )
            wanted.append((map_file(path), file.sha256, f'{path} {other}'))
    progress = Progress('Checking the base', 'MB')
    done, total = 0, sum(array.nbytes for array, _, _ in wanted)
    with ahead((lambda a=array: sha256(a) for array, _, _ in wanted), threads) as results:
        for (array, digest, message), found in zip(wanted, results, strict=True):
            if found != digest:
                raise ValueError(f'{message} (its SHA-256 is {found}, not {digest}).')
            done += array.nbytes
            progress.show(done // 10**6, done / max(1, total))
    progress.end(done // 10**6)


def _restore(
    delta: Delta,
    base: Path,
    bases: dict[str, Stored],
    target: Path,
    max_shard_size: int,
    kind: str,
    threads: int,
) -> None:
    """Writes the tuned model, each tensor checked when its last block is there."""

    def decoded(block: CodedBlock) -> np.ndarray:
        theirs = bases[block.of.base.name] if block.of.base else None
        return decode(block.data, theirs, DTYPES[block.of.dtype], block.start, block.size)

    def blocks(entry: Carried) -> Iterator[np.ndarray]:
        digest = hashlib.sha256()
        for _ in entry.blocks or ():
            numbers = next(results)
            digest.update(numbers.view(np.uint8).data)
            yield numbers
        if digest.hexdigest() != entry.sha256:
            raise ValueError(
                f'{entry.name} came out with another SHA-256 than {delta.directory} says: the '
                'delta is damaged. Get it again.'
            )

    everything = shown(
        [
            Planned(e.name, e.shape, DTYPES[e.dtype], lambda e=e: blocks(e))
            for e in (*delta.tensors, *(f for f in delta.files if f.blocks is not None))
        ],
        'Applying the delta',
    )
    with ahead((lambda b=block: decoded(b) for block in delta.blocks), threads) as results:
        shards.write(target, everything[: len(delta.tensors)], kind, max_shard_size)
        for file in everything[len(delta.tensors) :]:
            with (target / file.name).open('wb') as opened:
                file.write(opened)
    for file in delta.files:
        if file.blocks is None:
            shutil.copyfile(base / file.name, target / file.name)
