"""A Hugging Face directory opened as a model, and a model of any layout written as one."""

import functools
from pathlib import Path
from typing import Any

from belle_jax.data import tokenizer
from belle_jax.families import Architecture
from belle_jax.files import read_json, write_json
from belle_jax.formats import names
from belle_jax.formats.huggingface.config import (
    architecture_to_hf_config,
    generation_config,
    read_architecture,
)
from belle_jax.formats.huggingface.directory import (
    LICENCE_FILES,
    copy,
    resolve,
)
from belle_jax.formats.protocol import PublishedModel, new_model
from belle_jax.weights import shards
from belle_jax.weights.parameters import common_dtype
from belle_jax.weights.tensors import DTYPES

CARRIED = ('generation_config.json', 'README.md', *LICENCE_FILES, *tokenizer.FILES)


def open(directory: str | Path, architecture: Architecture | None = None) -> PublishedModel:
    """Opens a directory and checks every tensor's name and shape before a number is read.

    Args:
        directory: The directory, or a hub name.
        architecture: The model; by default what its `config.json` means.
    Raises:
        ValueError: a file or tensor is missing, damaged, of another shape, or left over.
    """
    path = resolve(directory)
    architecture = architecture or read_architecture(path)
    tensors = names.match(architecture, shards.read(path))
    return PublishedModel(
        directory=path,
        architecture=architecture,
        tensors=tensors,
        dtype=common_dtype({t.place: t.array.dtype for t in tensors.values()}),
        carry=functools.partial(_carry, path),
        config=read_json(config) if (config := path / 'config.json').is_file() else None,
    )


def _carry(source: Path, target: Path) -> list[str]:
    copy(source, target, CARRIED)
    return []


def write(
    model: PublishedModel,
    target: str | Path,
    dtype: str = '',
    max_shard_size: int = 5 * 10**9,
    kind: str = 'safetensors',
) -> Path:
    """Writes a model; the directory appears when it is complete.

    Args:
        model: Open in whatever layout.
        target: A directory that does not exist yet, or is empty.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
    Returns:
        The target.
    Raises:
        ValueError: the target is not empty, or a number does not fit the dtype.
        OSError: the disk is full; nothing is left behind.
    """
    if dtype not in ('', *DTYPES) or kind not in shards.STEMS:
        raise ValueError(
            f'--dtype={dtype!r} --format={kind!r}: the dtypes are {", ".join(DTYPES)}, the formats '
            f'{", ".join(shards.STEMS)}.'
        )
    with new_model(model, target, model.planned(dtype)) as (partial, tensors):
        shards.write(partial, tensors, kind, max_shard_size)
        write_json(partial / 'config.json', _config(model, dtype or model.dtype))
        notes = model.carry(partial)
        if not (path := partial / 'generation_config.json').is_file():
            write_json(path, generation_config(model.architecture))
    for note in notes:
        print(note)
    return Path(target)


def _config(model: PublishedModel, dtype: str) -> dict[str, Any]:
    """The published configuration where there is one, with the new dtype."""
    if model.config is None:
        return architecture_to_hf_config(model.architecture, dtype)
    keys = [k for k in ('dtype', 'torch_dtype') if k in model.config] or ['dtype', 'torch_dtype']
    return {**model.config} | dict.fromkeys(keys, dtype)
