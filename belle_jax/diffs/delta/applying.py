"""Applying the difference of two models to the one to get the other back."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from belle_jax.diffs.delta import manifest
from belle_jax.diffs.delta.blocks import ahead, decode, sha256
from belle_jax.diffs.delta.making import named
from belle_jax.diffs.delta.manifest import Carried, Delta
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
    size = sum(e.size for e in (*opened.tensors, *opened.files))
    with new_directory(target, size) as partial, ahead(_tasks(opened, bases), threads) as results:
        everything = shown(_planned(opened, results), 'Applying the delta')
        count = len(opened.tensors)
        shards.write(partial, everything[:count], kind, max_shard_size)
        for planned in everything[count:]:
            with (partial / planned.name).open('wb') as file:
                planned.write(file)
        for entry in opened.files:
            if entry.blocks is None:
                shutil.copyfile(base / entry.name, partial / entry.name)
    return Path(target)


def _find(delta: Delta, directory: Path) -> dict[str, Stored]:
    """The base's tensors by the names that the delta has for them."""
    stored, found = shards.read(directory), {}
    for entry in delta.tensors:
        if not (base := entry.base) or base.name in found:
            continue
        if not (tensor := named(base.name, stored)):
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


def _tasks(delta: Delta, bases: dict[str, Stored]) -> Iterator[Callable[[], np.ndarray]]:
    """What threads do: the numbers of every block."""
    for block in delta.blocks:
        base = bases[block.of.base.name] if block.of.base else None
        dtype = DTYPES[block.of.dtype]
        yield lambda b=block, t=base, d=dtype: decode(b.data, t, d, b.start, b.size)


def _planned(delta: Delta, results: Iterator[np.ndarray]) -> list[Planned]:
    """Tensors and files to write, each checked when its last block is there."""

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

    return [
        Planned(e.name, e.shape, DTYPES[e.dtype], lambda e=e: blocks(e))
        for e in (*delta.tensors, *delta.files)
        if e.blocks is not None
    ]
