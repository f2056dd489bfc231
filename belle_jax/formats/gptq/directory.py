"""Quantised models opened: directories, and a base's directory with a bare file of weights."""

import functools
from collections.abc import Mapping
from pathlib import Path

from belle_jax.formats import huggingface
from belle_jax.formats.gptq import settings
from belle_jax.formats.gptq.reading import translate
from belle_jax.formats.protocol import PublishedModel, match
from belle_jax.json_files import read_json
from belle_jax.weights import safetensors, shards, torch_files
from belle_jax.weights.tensors import Stored, common_dtype


def is_quantised(directory: Path) -> bool:
    """Whether a directory says that its model is quantised, by whatever method."""
    return directory.is_dir() and settings.find(directory) is not None


def open(directory: str | Path, weights: str | Path = '') -> PublishedModel:
    """Opens a quantised model and checks every tensor before the weights are read.

    Args:
        directory: With `config.json`, and weights as GPTQ checkpoints or compressed-tensors have
            them; or a hub name.
        weights: A bare `.pt` or `.safetensors` file, as BELLE published: then the directory is that
            of its base, of which the configuration and the tokenizer are taken. Bits and group size
            follow from the shapes.
    Raises:
        ValueError: a file or tensor is missing, damaged, of another shape, or of a kind that is not
            read; it is named.
    """
    path = huggingface.resolve(directory)
    architecture = huggingface.read_architecture(path, without=(settings.KEY,))
    said = settings.FileSettings() if weights else settings.read(path)
    stored = _read_file(Path(weights)) if weights else _read(path, said)
    tensors, architecture, packing = translate(architecture, stored, said)
    tensors = match(architecture, tensors, packing)
    return PublishedModel(
        directory=path,
        architecture=architecture,
        tensors=tensors,
        dtype=common_dtype({t.place: t.array.dtype for n, t in tensors.items() if _is_plain(n, t)}),
        carry=functools.partial(huggingface.carry, path),
        config={k: v for k, v in read_json(path / settings.CONFIG).items() if k != settings.KEY},
        stored=tuple(stored.values()),
        packing=packing,
    )


def _is_plain(name: str, tensor: Stored) -> bool:
    return tensor.array.dtype.kind not in 'iu' and not name.endswith('.scales')


def _read(path: Path, said: settings.FileSettings) -> Mapping[str, Stored]:
    """All tensors of a directory; AutoGPTQ names a single file by bits and group size."""
    stem = f'gptq_model-{said.bits}bit-{said.group_size or -1}g'
    if (path / f'{stem}.safetensors').is_file():
        kind = shards.FileFormat(stem, safetensors.read, safetensors.write)
        return shards.read(path, {'safetensors': kind})
    return shards.read(path)


def _read_file(path: Path) -> dict[str, Stored]:
    if not path.is_file():
        raise ValueError(f'--weights={path} is not a file: give the .pt or .safetensors itself.')
    tensors = (safetensors if path.suffix == '.safetensors' else torch_files).read(path)
    if not tensors:
        raise ValueError(f'{path} holds no tensors: take the weights of this model.')
    return tensors
