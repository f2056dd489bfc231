"""How models of a family are published: the settings of a `config.json`, and the tensors.

Our parameters are stacked over layers and keep heads as an axis of their own; products are written
inputs first. Theirs are one tensor a layer, outputs first, heads flattened. A `TensorMap` folds
their tensor into heads and says in which order our axes come; both directions, and any slice of
them, follow from that alone. No arithmetic happens, so a round trip is exact to the bit.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Index = tuple[slice, ...]

HEAD = 'lm_head.weight'
"""The output table, which all published models have under the same name."""


@dataclasses.dataclass(frozen=True)
class TensorMap:
    """One of our parameters, and the published tensors that hold it."""

    ours: str  # name of our parameter
    theirs: str  # name of the published tensor, with `{layer}` where there is one for each layer
    fold: tuple[int, ...]  # their shape with flattened axes taken apart
    order: tuple[int, ...]  # our axis k (after the layers) is their folded axis order[k]
    inputs: int = 0  # how many of the last folded axes are their second axis; 0 for vectors
    layers: int = 0  # how many layers ours is stacked over; 0 where it is not
    padded: int = 0  # rows of ours where it has more than theirs (a table padded with zeros); or 0

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of one published tensor."""
        if not self.inputs:
            return (math.prod(self.fold),)
        split = len(self.fold) - self.inputs
        return math.prod(self.fold[:split]), math.prod(self.fold[split:])

    @property
    def our_shape(self) -> tuple[int, ...]:
        """Shape of our parameter, with layers and padding."""
        one = [self.fold[axis] for axis in self.order]
        if self.padded:
            one[0] = self.padded
        return (self.layers, *one) if self.layers else tuple(one)

    @property
    def their_names(self) -> list[str]:
        """The published tensors, one for each layer where ours is stacked."""
        return [self.theirs.format(layer=i) for i in range(self.layers)] or [self.theirs]

    def take(self, tensors: Sequence[np.ndarray], index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of our parameter from their tensors.

        Args:
            tensors: Their tensors, one for each of `their_names`; only what the slice needs is
                read.
            index: Slices of `our_shape`, as `jax.make_array_from_callback` gives them.
            dtype: Of the result.
        """
        shape = self.our_shape
        ranges = [range(*s.indices(n)) for s, n in zip(index, shape, strict=True)]
        out = np.empty([len(r) for r in ranges], dtype)
        slabs = out if self.layers else out[None]
        for slab, layer in zip(slabs, ranges[0] if self.layers else [0], strict=True):
            view = tensors[layer].reshape(self.fold).transpose(self.order)
            view = view[tuple(index[1:] if self.layers else index)]
            # First the order, then the dtype: four times faster than both in one pass.
            slab[: len(view)] = np.ascontiguousarray(view)
            slab[len(view) :] = 0  # padding of a table
        return out

    def give(
        self, read: Callable[[Index], np.ndarray], layer: int, start: int, stop: int
    ) -> np.ndarray:
        """A block of rows of one of their tensors from ours.

        Args:
            read: Reads a slice of our parameter.
            layer: Which of `their_names`.
            start: First row of the block, counted along the first folded axis (whole heads).
            stop: Row after the last.
        Returns:
            The rows in their layout.
        """
        index = [slice(0, self.fold[axis]) for axis in self.order]
        index[self.order.index(0)] = slice(start, stop)
        block = read(tuple([slice(layer, layer + 1), *index] if self.layers else index))
        block = block[0] if self.layers else block
        inverse = [self.order.index(axis) for axis in range(len(self.fold))]
        return np.ascontiguousarray(block.transpose(inverse)).reshape(-1, *self.their_shape[1:])


def table(ours: str, theirs: str, rows: int, width: int, padded: int) -> TensorMap:
    """A table of vectors, one for each token; ours is padded with rows of zeros."""
    return TensorMap(ours, theirs, (rows, width), (0, 1), inputs=1, padded=padded)


def vector(ours: str, theirs: str, fold: tuple[int, ...], layers: int = 0) -> TensorMap:
    """A scale or bias, which has the same layout on both sides."""
    return TensorMap(ours, theirs, fold, tuple(range(len(fold))), layers=layers)


def norm(ours: str, theirs: str, size: int, layers: int = 0) -> list[TensorMap]:
    """Scale and bias of a layer norm."""
    return [
        vector(f'{ours}.{our}', f'{theirs}.{their}', (size,), layers)
        for our, their in (('scale', 'weight'), ('bias', 'bias'))
    ]


def linear(
    ours: str,
    theirs: str,
    outputs: tuple[int, ...],
    inputs: tuple[int, ...],
    layers: int,
    biased: bool,
) -> list[TensorMap]:
    """A product, with a bias or without.

    Args:
        ours: Name of ours, without `.kernel` or `.bias`.
        theirs: Name of theirs, without `.weight` or `.bias`.
        outputs: Axes that it makes, heads taken apart.
        inputs: Axes that it sums over.
        layers: How many of them are stacked; 0 for one that is not.
        biased: Whether there is a bias.
    """
    axes = range(len(outputs) + len(inputs))
    order = (*axes[len(outputs) :], *axes[: len(outputs)])  # ours: inputs first
    kernel = TensorMap(
        f'{ours}.kernel', f'{theirs}.weight', (*outputs, *inputs), order, len(inputs), layers
    )
    bias = vector(f'{ours}.bias', f'{theirs}.bias', outputs, layers)
    return [kernel, bias] if biased else [kernel]


# --- settings -------------------------------------------------------------------------------------

ACTIVATIONS = {
    'silu': 'silu',
    'swish': 'silu',
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_fast': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'relu': 'relu',
}
"""Ours by the names that configurations use."""


class PublishedConfig:
    """Looks a setting up under its old and new names."""

    def __init__(self, values: Mapping[str, Any]):
        """Takes the values of the file."""
        self.values = values

    def get(self, *names: str, default: Any = None) -> Any:
        """The value of the first name that has one; null counts as none."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        return default

    def count(self, *names: str, default: int | None = None) -> int:
        """As `get`, of a positive whole number; anything else is a ValueError that names it."""
        value = self.get(*names, default=default)
        if type(value) is not int or value < 1:
            raise ValueError(f'{names[0]}={value!r:.80} must be a positive whole number.')
        return value

    def number(self, name: str, default: float | None, above: bool = False) -> float:
        """As `get`, of a number from 0 or `above` it; else a ValueError names it."""
        value = self.get(name, default=default)
        fits = type(value) in (int, float) and 0 <= value < 2**63 and not (above and value == 0)
        if not fits:
            least = 'above 0' if above else '0 or above'
            raise ValueError(f'{name}={value!r:.80} must be a number, {least}.')
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """As `get`, of true or false; anything else is a ValueError that names it."""
        value = self.get(name, default=default)
        if type(value) is not bool:
            raise ValueError(f'{name}={value!r:.80} must be true or false.')
        return value

    def table(self, *names: str) -> dict[str, Any]:
        """The first of these objects that is not empty, as transformers takes it.

        What is not an object is a ValueError that names it.
        """
        for name in names:
            if not isinstance(value := self.values.get(name) or {}, dict):
                raise ValueError(f'{name}={value!r} must be an object with named settings.')
        return dict(next(filter(None, map(self.values.get, names)), {}))

    def activation(self, name: str, default: str) -> str:
        """One of ours; what is not known here is a ValueError."""
        value = self.get(name, default=default)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ValueError(f'{name}={value!r} is not known: {", ".join(ACTIVATIONS)} are.')
        return ACTIVATIONS[value]
