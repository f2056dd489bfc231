"""Products rounded to 8 or 4 bits as they are read: what stays frozen beside an adapter.

No calibration, no text: each weight goes to the nearest level of its group. `convert gptq` does it
with more care.
"""

import math
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.families import Packing, TensorMap, is_matrix
from belle_jax.families.packing import NF4
from belle_jax.weights import bitpacking
from belle_jax.weights.tensors import Index

PACKINGS: dict[str, Packing] = {
    'int8': Packing(8, group_size=0),
    'nf4': Packing(4, group_size=64, levels=NF4),
}
"""By the values of `config.Model.frozen`. Groups of nf4 are those of bitsandbytes, where they
divide the inputs; scales are float16 where it has float32, and are not rounded further."""


class Rounded:
    """A kind of `Parameters`, whose products are rounded; all else is as it was."""

    adapter = None

    def __init__(self, parameters: Any, packing: Packing):
        """Plans the reading.

        Args:
            parameters: `Parameters` of a model that is not quantised.
            packing: How its products are to be kept, symmetric.
        Raises:
            ValueError: the model is quantised already.
        """
        self.architecture, self.packing = parameters.architecture, packing
        if parameters.packing:
            raise ValueError(
                'the model is quantised, and is not rounded once more: leave '
                '--config.model.frozen=source.'
            )
        self._parameters, self.dtype = parameters, parameters.dtype
        entries = families.tensor_maps(self.architecture)
        packed = families.packed_maps(entries, packing)
        self.shapes = {entry.ours: entry.our_shape for entry in packed}
        self._kernels: dict[str, TensorMap] = {
            entry.ours.removesuffix('.kernel'): entry for entry in filter(is_matrix, entries)
        }

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored; words and scales are what is made of it."""
        if self._entry(name) is None:
            return self._parameters.dtype_of(name)
        return np.dtype(np.int32 if name.endswith('.words') else np.float16)

    def read(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of a parameter; of a product all inputs are read."""
        if (entry := self._entry(name)) is None:
            return self._parameters.read(name, index, dtype)
        own = self._codes if name.endswith('.words') else self._scales
        inputs = tuple(slice(0, n) for n in entry.fold[len(entry.fold) - entry.inputs :])
        count = math.prod(s.stop for s in inputs)
        read = []
        for layer in range(*index[0].indices(entry.layers)):
            wanted = (slice(layer, layer + 1), *inputs, *index[2:])
            weight = self._parameters.read(entry.ours, wanted, np.dtype(np.float32))
            outputs = weight.shape[1 + len(inputs) :]
            read.append(own(weight.reshape(count, -1)).reshape(-1, *outputs)[index[1]])
        return np.stack(read)

    def _entry(self, name: str) -> TensorMap | None:
        product, _, end = name.rpartition('.')
        return self._kernels.get(product) if end in ('words', 'scales') else None

    def _scales(self, weight_kn: np.ndarray) -> np.ndarray:
        """float16 [G, N]: the largest code stands for the largest weight of a group."""
        size = self.packing.group_size or len(weight_kn)
        starts = np.arange(0, len(weight_kn), size)
        largest = np.maximum.reduceat(np.abs(weight_kn), starts, axis=0)
        return (largest / (1.0 if self.packing.levels else 127.0)).astype(np.float16)

    def _codes(self, weight_kn: np.ndarray) -> np.ndarray:
        """int32 [W, N], the codes of the nearest levels, packed."""
        size = self.packing.group_size or len(weight_kn)
        scales = self._scales(weight_kn).astype(np.float32)
        wide = np.repeat(np.where(scales == 0, 1, scales), size, axis=0)[: len(weight_kn)]
        steps = np.divide(weight_kn, wide, out=wide)
        levels = np.asarray(self.packing.levels, np.float32)
        return bitpacking.pack(_nearest(steps, levels), self.packing.bits)


def _nearest(steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """uint8, the place of the nearest level; without levels, the nearest whole number plus 128."""
    if not len(levels):
        return (np.clip(np.rint(steps), -127, 127) + 128).astype(np.uint8)
    codes = np.zeros(steps.shape, np.uint8)
    for between in (levels[1:] + levels[:-1]) / 2:  # five times faster than a search for each
        codes += steps > between
    return codes
