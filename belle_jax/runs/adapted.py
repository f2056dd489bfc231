"""A frozen base and a low-rank adapter, read as one model: side by side, or merged."""

from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.families import LowRank
from belle_jax.runs.parameters import Parameters
from belle_jax.weights.tensors import DTYPES, Index


class Adapted:
    """A kind of `Parameters`: the base's, the adapter's beside them, and what it has replaced.

    Attributes:
        adapter: Rank, scale and targets.
    """

    def __init__(self, base: Parameters, own: Any, place: Any):
        """Puts the two together.

        Args:
            base: The model that the adapter was trained on.
            own: The adapter: with `adapter`, `shapes`, `dtype_of` and `read` as in `Parameters`.
            place: Where the adapter lies, for messages.
        Raises:
            ValueError: the adapter is another model's.
        """
        self._base, self._own = base, own
        self.architecture, self.packing, self.dtype = base.architecture, base.packing, base.dtype
        self.adapter: LowRank = own.adapter
        maps = families.adapter_maps(self.architecture, self.adapter)
        wanted = dict(base.shapes) | {entry.ours: entry.our_shape for entry in maps}
        for name, shape in own.shapes.items():
            if wanted.get(name) != shape:
                raise ValueError(
                    f'{place} has {name} of shape {list(shape)}, and the base '
                    + (f'takes {list(wanted[name])}' if name in wanted else 'has no such parameter')
                    + ': it is an adapter of another model. Give the model that it was trained on.'
                )
        self.shapes = wanted

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored."""
        return self._of(name).dtype_of(name)

    def read(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of a parameter as `dtype`; nothing else is read."""
        return self._of(name).read(name, index, dtype)

    def _of(self, name: str) -> Any:
        return self._own if name in self._own.shapes else self._base


class Merged:
    """A kind of `Parameters`: an adapted model as a plain one, W + scale · B A in place of W."""

    adapter = None

    def __init__(self, adapted: Any):
        """Of an adapted model; a ValueError where its base is quantised."""
        self._adapted, self.architecture = adapted, adapted.architecture
        self.packing, self.dtype = adapted.packing, adapted.dtype
        if self.packing:
            raise ValueError(
                'the base of the adapter is quantised: a sum would have to be rounded again, and '
                'the adapter was trained beside the codes as they are. Merge into the model that '
                'the base was made from, or keep the two apart.'
            )
        self.shapes = {n: s for n, s in adapted.shapes.items() if '.adapter.' not in n}

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored; a sum is float32: who rounds it looks at its range."""
        return DTYPES['float32'] if self._is_sum(name) else self._adapted.dtype_of(name)

    def read(self, name: str, index: Index, dtype: np.dtype | None = None) -> np.ndarray:
        """A slice of a parameter as `dtype`; with DoRA, all inputs of a product are read."""
        dtype, own = dtype or self.dtype_of(name), name.removesuffix('kernel') + 'adapter.'
        if not self._is_sum(name):
            return self._adapted.read(name, index, dtype)
        layers = range(*index[0].indices(self.shapes[name][0]))
        merged = [self._merged(name, own, layer, index[1:]) for layer in layers]
        return np.stack(merged).astype(dtype, copy=False)

    def _is_sum(self, name: str) -> bool:
        product = name.removesuffix('kernel')
        return product != name and f'{product}adapter.a' in self._adapted.shapes

    def _merged(self, name: str, own: str, layer: int, index: Index) -> np.ndarray:
        """float32, a slice of one layer's product."""
        adapter, shapes = self._adapted.adapter, self._adapted.shapes
        split = len(shapes[f'{own}a']) - 2  # input axes
        inputs, outputs = index[:split], index[split:]
        if adapter.dora:
            inputs = tuple(slice(0, n) for n in self.shapes[name][1 : split + 1])

        def part(name: str, *index: slice) -> np.ndarray:
            here = (slice(layer, layer + 1), *index)
            return self._adapted.read(name, here, np.dtype(np.float32))[0]

        every = slice(0, adapter.rank)
        a, b = part(f'{own}a', *inputs, every), part(f'{own}b', every, *outputs)
        whole = part(name, *inputs, *outputs) + adapter.scale * np.tensordot(a, b, 1)
        if not adapter.dora:
            return whole
        norms = np.sqrt(np.square(whole).sum(axis=tuple(range(split))))
        return (whole * (part(f'{own}magnitude', *outputs) / norms))[index[:split]]
