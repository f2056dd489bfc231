"""A Hugging Face directory opened: which model it is, and its tensors, all accounted for."""

import functools
from pathlib import Path

from belle_jax.architecture import Architecture
from belle_jax.data import tokenizer
from belle_jax.formats import names
from belle_jax.formats.huggingface.config import architecture_from_config
from belle_jax.formats.huggingface.directory import LICENCE_FILES, copy, read_json, resolve
from belle_jax.formats.protocol import PublishedModel
from belle_jax.weights import shards
from belle_jax.weights.parameters import common_dtype

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


def read_architecture(directory: str | Path) -> Architecture:
    """Which model a directory's `config.json` means.

    Args:
        directory: A Hugging Face directory or hub name.
    Raises:
        ValueError: the configuration asks for something that is not built here; the field is named.
    """
    path = resolve(directory) / 'config.json'
    config = read_json(path)
    generation = path.with_name('generation_config.json')
    try:
        return architecture_from_config(
            config, read_json(generation) if generation.is_file() else {}
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path}: {error}') from error
