"""One quantised matrix of a file: what its tensors must be, and how ours come of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from belle_jax.families import Packing, TensorMap
from belle_jax.families.packing import BITS, groups, words
from belle_jax.formats.gptq import zeros
from belle_jax.formats.gptq.settings import FileSettings
from belle_jax.weights import bitpacking
from belle_jax.weights.tensors import Stored

PARTS = ('qweight', 'qzeros', 'scales', 'g_idx', 'shape')
"""Ends of names in GPTQ checkpoints; the last is of compressed-tensors alone."""

COLUMNS = 4096  # of a matrix that are unpacked at a time


@dataclasses.dataclass(frozen=True)
class Matrix:
    """K inputs, N outputs, G groups."""

    stem: str  # of the names, with the dot
    outputs: int
    inputs: int
    parts: Mapping[str, Stored]
    settings: FileSettings
    bits: int

    @property
    def group_count(self) -> int:
        """G."""
        return self.parts['scales'].array.shape[0]

    def zeros(self) -> np.ndarray:
        """uint8 [G, N]."""
        if (stored := self.parts.get('qzeros')) is None:
            return np.full((self.group_count, self.outputs), 2 ** (self.bits - 1), np.uint8)
        said = self.settings
        return zeros.read(stored, self.bits, self.outputs, said.version, said.whole_words)

    def is_symmetric(self) -> bool:
        """Whether all zeros are half the range."""
        return 'qzeros' not in self.parts or bool((self.zeros() == 2 ** (self.bits - 1)).all())

    def order(self, size: int) -> np.ndarray:
        """int32 [K], the group of each input."""
        if (stored := self.parts.get('g_idx')) is not None:
            return stored.array.astype(np.int32, copy=False)
        return (np.arange(self.inputs) // (size or self.inputs)).astype(np.int32)

    def is_ordered(self, size: int) -> bool:
        """Whether the inputs of each group come together, one group after the other."""
        return np.array_equal(self.order(size), np.arange(self.inputs) // (size or self.inputs))

    def weight(self, size: int) -> np.ndarray:
        """[N, K], unpacked, in the dtype of the scales."""
        scales, order = self.parts['scales'].array, self.order(size)
        centre, out = (
            self.zeros().astype(np.int16),
            np.empty((self.outputs, self.inputs), scales.dtype),
        )
        for start in range(0, self.outputs, COLUMNS):
            part = slice(start, start + COLUMNS)
            whole = bitpacking.unpack(self.parts['qweight'].array[:, part], self.bits, self.inputs)
            out[part] = (scales[order, part].astype(np.float32) * (whole - centre[order, part])).T
        return out

    def canonical(self, packing: Packing) -> dict[str, Stored]:
        """The tensors of `families.packed_maps`: views of files, but for zeros and odd widths."""
        packed, size = self.parts['qweight'].array, packing.group_size
        if missing := words(self.inputs, self.bits) - len(packed):
            packed = np.pad(packed, ((0, missing), (0, 0)))
        arrays = {'qweight': packed, 'scales': self.parts['scales'].array}
        if not packing.symmetric:
            arrays['qzeros'] = self.zeros()
        if packing.act_order:
            arrays['g_idx'] = self.order(size)
        file = self.parts['qweight'].file
        return {self.stem + end: Stored(self.stem + end, file, a) for end, a in arrays.items()}

    def check(self, size: int) -> None:
        """Refuses tensors of wrong shapes and types, and groups that are not there."""
        count, outputs = groups(self.inputs, size), self.outputs
        wide = {bitpacking.packed_size(outputs, self.bits), words(outputs, self.bits)}
        for end, shapes, kinds in (
            ('scales', {(count, outputs)}, 'fV'),
            ('qzeros', {(count, width) for width in wide}, 'i'),
            ('g_idx', {(self.inputs,)}, 'i'),
            ('shape', {(2,)}, 'i'),
        ):
            if (part := self.parts.get(end)) is None:
                continue
            array = part.array
            fits = array.dtype.kind in kinds and (end != 'qzeros' or array.itemsize == 4)
            if array.shape not in shapes or not fits:
                said = f'{"one group" if not size else f"groups of {size}"} of {self.inputs} inputs'
                raise ValueError(
                    f'{part.place} has shape {list(array.shape)} and dtype {array.dtype}, but '
                    f'{outputs} outputs and {said} need {list(min(shapes))} and '
                    f'{"int32" if "i" in kinds else "floating-point numbers"}. Take the weights '
                    'that belong to this configuration.'
                )
        order = self.parts.get('g_idx')
        if order and (order.array.min() < 0 or order.array.max() >= count):
            raise ValueError(
                f'{order.place} has groups from {order.array.min()} to {order.array.max()}, but '
                f'there are {count}. The file is damaged: copy it again.'
            )
        shape = self.parts.get('shape')
        if shape and shape.array.tolist() != [outputs, self.inputs]:
            raise ValueError(
                f'{shape.place} says {shape.array.tolist()}, but config.json asks for '
                f'{[outputs, self.inputs]}: the two do not belong together.'
            )


def find(
    entry: TensorMap, name: str, tensors: Mapping[str, Stored], settings: FileSettings
) -> Matrix | None:
    """A matrix among the tensors of a file; None where there is none of that name.

    Args:
        entry: The parameter.
        name: Of the matrix before it was quantised, one of the entry's.
        tensors: By their whole names.
        settings: How they are to be read.
    Raises:
        ValueError: it lacks a tensor, or its words are not those of so many inputs and bits.
    """
    stem = name.removesuffix('weight')
    parts = {end: tensors[stem + end] for end in PARTS if stem + end in tensors}
    if (packed := parts.get('qweight')) is None:
        return None
    if name in tensors:
        raise ValueError(f'{tensors[name].place} is there a second time, as {packed.name}.')
    needed = ('scales',) if settings.compressed else ('scales', 'qzeros')
    if missing := [end for end in needed if end not in parts]:
        raise ValueError(
            f'{stem}{missing[0]} is missing from {packed.file}, which has {packed.name}. Complete '
            'the download.'
        )
    outputs, inputs = entry.their_shape
    shape, dtype = packed.array.shape, packed.array.dtype
    bits = [b for b in BITS if shape in {(n, outputs) for n in _sizes(inputs, b)}]
    if settings.bits and entry.layers:
        bits = [b for b in bits if b == settings.bits]
    if not bits or dtype != np.int32 or len(parts['scales'].array.shape) != 2:
        said = f'{settings.bits}-bit' if settings.bits and entry.layers else '2-, 3-, 4- or 8-bit'
        raise ValueError(
            f'{packed.place} has shape {list(shape)} and dtype {dtype}, which are not {said} codes '
            f'of {inputs} inputs and {outputs} outputs. Correct the configuration, or take the '
            'weights that belong to it.'
        )
    return Matrix(stem, outputs, inputs, parts, settings, bits[0])


def _sizes(inputs: int, bits: int) -> tuple[int, int]:
    return bitpacking.packed_size(inputs, bits), words(inputs, bits)
