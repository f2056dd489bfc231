"""Adapters as PEFT's directories have them: `adapter_config.json` beside small weight files.

Arrays are read whole, for they are small. Ranks and scales may differ from product to product
there; here an adapter has one of each, so that smaller ranks are filled with zeros, and A and B
each take the root of what a scale differs by: the product B A, which is all that an adapter says,
stays as it was.

Source: peft 0.21.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from belle_jax import families
from belle_jax.families import HEAD, Architecture, LowRank, TensorMap
from belle_jax.families.low_rank import PUBLISHED, products
from belle_jax.formats.peft.settings import CONFIG, AdapterSettings
from belle_jax.weights import safetensors, shards, torch_files
from belle_jax.weights.tensors import DTYPES, Index, Stored

KINDS = {
    'safetensors': shards.FileFormat('adapter_model', safetensors.read, safetensors.write),
    'bin': shards.FileFormat('adapter_model', torch_files.read, torch_files.write),
}


class PeftAdapter:
    """An adapter that was read: with `adapter`, `shapes`, `dtype_of` and `read` as `Parameters`."""

    dtype = 'float32'

    def __init__(
        self, adapter: LowRank, arrays: Mapping[str, np.ndarray], uneven: tuple[str, ...] = ()
    ):
        """Of its settings, arrays by checkpoint name, and what differs by product in its files."""
        self.adapter, self.arrays, self.uneven = adapter, arrays, uneven
        self.shapes = {name: array.shape for name, array in arrays.items()}

    def dtype_of(self, name: str) -> np.dtype:
        """Of an array."""
        return self.arrays[name].dtype

    def read(self, name: str, index: Index, dtype: np.dtype | None = None) -> np.ndarray:
        """A slice of an array as `dtype`."""
        array = self.arrays[name][index]
        return array if dtype is None else array.astype(dtype, copy=False)


def open(directory: Path, architecture: Architecture) -> PeftAdapter:
    """Reads an adapter.

    Args:
        directory: With `adapter_config.json` and `adapter_model.safetensors` or `.bin`.
        architecture: Of the base.
    Raises:
        ValueError: it is damaged, of another kind than LoRA, or of another model; a tensor or a
            setting is named.
    """
    said = AdapterSettings(directory / CONFIG)
    stored = {_plain(name): tensor for name, tensor in shards.read(directory, KINDS).items()}
    found: dict[str, list[_Layer | None]] = {}
    for name, entry in products(architecture).items():
        layers = [_layer(stored, stem, entry, said) for stem in _stems(entry)]
        if any(layers):
            found[name] = layers
    if not found:
        raise ValueError(
            f'{directory} has no adapter of a product of a {architecture.family} model: it is of '
            f'another model, and has {next(iter(stored), "nothing")}.'
        )
    ranks = {len(layer.a) for layers in found.values() for layer in layers if layer}
    adapter = LowRank(said.rank, said.alpha, tuple(found), said.rslora, said.dora)
    if ranks != {said.rank}:
        adapter = dataclasses.replace(adapter, rank=max(ranks), alpha=max(ranks), rslora=False)
    arrays = _replaced(stored, architecture)
    for entry in families.adapter_maps(architecture, adapter):
        part = entry.ours.rpartition('.')[2]
        layers = found[entry.ours.split('.', 2)[2].rpartition('.adapter.')[0]]
        if part == 'magnitude' and not all(layers):
            raise ValueError(
                f'{directory} has DoRA in some layers alone: where {entry.ours} has none there is '
                'no magnitude to begin with. Merge it with peft.'
            )
        theirs = [_filled(layer, part, entry, adapter.scale) for layer in layers]
        whole = tuple(slice(0, n) for n in entry.our_shape)
        arrays[entry.ours] = entry.take(theirs, whole, np.dtype(np.float32))
    scales = {layer.scale for layers in found.values() for layer in layers if layer}
    differs = {'ranks': len(ranks) > 1, 'scales': len(scales) > 1}
    return PeftAdapter(adapter, arrays, tuple(name for name, does in differs.items() if does))


# --- reading --------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    """The adapter of one product of one layer, as a file has it."""

    a: np.ndarray  # [rank, inputs]
    b: np.ndarray  # [outputs, rank]
    scale: float
    magnitude: np.ndarray | None


def _stems(entry: TensorMap) -> list[str]:
    return [PUBLISHED + name.removesuffix('weight') for name in entry.their_names]


def _plain(name: str) -> str:
    """A tensor's name without what a PEFT model in memory has in it."""
    name = re.sub(r'\.(modules_to_save|base_layer)(?=\.)', '', name)
    return re.sub(r'\.default(?=\.weight$|$)', '', name)


def _layer(
    stored: dict[str, Stored], stem: str, entry: TensorMap, said: AdapterSettings
) -> _Layer | None:
    """Takes the arrays of one product out of the file's; None where it has no adapter."""
    ends = ('lora_A.weight', 'lora_B.weight', 'lora_magnitude_vector')
    parts = [stored.pop(stem + end, None) for end in ends[: 3 if said.dora else 2]]
    if not any(parts):
        return None
    outputs, inputs = entry.their_shape
    rank, scale = said.of(stem.removeprefix(PUBLISHED).rstrip('.'))
    shapes = ((rank, inputs), (outputs, rank), (outputs,))
    for part, end, shape in zip(parts, ends, shapes, strict=False):
        if part is None:
            raise ValueError(f'{said.path.parent} lacks {stem}{end}: complete the download.')
        if part.array.shape != shape:
            raise ValueError(
                f'{part.place} has shape {list(part.array.shape)}, and the base and {CONFIG} ask '
                f'for {list(shape)}: it is an adapter of another model.'
            )
    arrays = [part.array for part in parts if part]
    return _Layer(arrays[0], arrays[1], scale, arrays[2] if said.dora else None)


def _filled(layer: _Layer | None, part: str, entry: TensorMap, scale: float) -> np.ndarray:
    """One of a layer's arrays at the adapter's rank and scale; zeros where it has none."""
    out = np.zeros(entry.their_shape, np.float32)
    if layer is None:
        return out
    array = getattr(layer, part).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f'{entry.theirs} of the adapter has numbers that are not finite.')
    if part in ('a', 'b') and layer.scale != scale:
        array = array * np.float32((layer.scale / scale) ** 0.5)
    out[tuple(slice(0, n) for n in array.shape)] = array
    return out


def _replaced(stored: dict[str, Stored], architecture: Architecture) -> dict[str, np.ndarray]:
    """What else the file has: parameters of the base that were trained as a whole."""
    whole = {name.removeprefix(PUBLISHED): tensor for name, tensor in stored.items()}
    arrays = {}
    for entry in families.tensor_maps(architecture):
        theirs = [whole.pop(name, None) for name in entry.their_names]
        if not any(theirs):
            continue
        for name, tensor in zip(entry.their_names, theirs, strict=True):
            if tensor is None or tensor.array.shape != entry.their_shape:
                problem = f'has another shape than {list(entry.their_shape)}' if tensor else 'lacks'
                raise ValueError(
                    f'{name}, trained as a whole, {problem} in the adapter: it is of another model.'
                )
        index = tuple(slice(0, n) for n in entry.our_shape)
        arrays[entry.ours] = entry.take([t.array for t in theirs if t], index, DTYPES['float32'])
        if architecture.tied and entry.padded:
            head, table = whole.pop(HEAD, None), theirs[0]
            if not (head and table and np.array_equal(head.array, table.array)):
                raise ValueError(
                    f'{entry.theirs} was trained apart from the output table, which is the same in '
                    'this model: merge the adapter with peft, which unties them.'
                )
    if any('.lora_' in name for name in whole):
        raise ValueError(
            f'{next(name for name in whole if ".lora_" in name)} adapts a table or another part '
            'than the products of layers, which is not read here: merge the adapter with peft.'
        )
    if whole:
        raise ValueError(
            f'{next(iter(whole.values())).place} belongs to no part of a {architecture.family} '
            'model of this shape: it is an adapter of another model.'
        )
    return arrays
