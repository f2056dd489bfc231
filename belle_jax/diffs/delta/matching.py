"""Which tensor of the base a tuned one is compared with, and which small files a delta has."""

from collections.abc import Mapping
from pathlib import Path

from belle_jax.diffs.delta import manifest
from belle_jax.families import FAMILIES, HEAD
from belle_jax.weights import shards
from belle_jax.weights.tensors import Stored


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
