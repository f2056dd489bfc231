"""Writes a directory of PEFT's."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.families import HEAD, Architecture, TensorMap
from belle_jax.families.low_rank import PUBLISHED
from belle_jax.files import new_directory
from belle_jax.formats.peft import settings
from belle_jax.json_files import write_json
from belle_jax.weights import safetensors
from belle_jax.weights.tensors import Planned, planned


def write(
    own: Any,
    architecture: Architecture,
    target: Path,
    base: str,
    carry: Callable[[Path], object] = lambda directory: None,
) -> Path:
    """Writes an adapter, in float32.

    Args:
        own: With `adapter`, `shapes` and `read` as `PeftAdapter` has them.
        architecture: Of the base.
        target: A directory that does not exist yet, or is empty; it is returned.
        base: What the base is called.
        carry: Puts other files into the directory, before it has its name.
    Raises:
        ValueError: the target is not empty.
    """
    maps = [*families.adapter_maps(architecture, own.adapter)]
    whole = [entry for entry in families.tensor_maps(architecture) if entry.ours in own.shapes]
    for entry in whole:
        maps.append(dataclasses.replace(entry, theirs=PUBLISHED + entry.theirs))
        if architecture.tied and entry.padded:  # peft would leave the output table as it was
            maps.append(dataclasses.replace(entry, theirs=PUBLISHED + HEAD))
    tensors = [tensor for entry in maps for tensor in _planned(own, entry)]
    modules = {tensor.name.split('.')[-2] for tensor in tensors if '.lora_' not in tensor.name}
    with new_directory(target, sum(t.size for t in tensors)) as partial:
        safetensors.write(partial / 'adapter_model.safetensors', tensors)
        write_json(
            partial / settings.CONFIG,
            settings.written(own.adapter, architecture, base, sorted(modules)),
        )
        carry(partial)
    return target


def _planned(own: Any, entry: TensorMap) -> Iterator[Planned]:
    for layer, name in enumerate(entry.their_names):
        rows = entry.give(lambda index: own.read(entry.ours, index), layer, 0, entry.fold[0])
        yield planned(name, rows.astype(np.float32).reshape(entry.their_shape))
