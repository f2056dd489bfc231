"""Our parameters by slices, wherever they lie: published files, or a checkpoint of a run.

Each device's shard is read by itself, so that no host holds the model twice, or anything but its
shards.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from belle_jax import families
from belle_jax.families import Architecture
from belle_jax.runs import run_directory
from belle_jax.weights.tensors import DTYPES, Index


class Parameters(Protocol):
    """What both kinds of source offer.

    Attributes:
        architecture: The model.
        shapes: Shape of each parameter by checkpoint name, padding included.
        dtype: In which most numbers are stored: 'float32', 'bfloat16' or 'float16'.
    """

    @property
    def architecture(self) -> Architecture: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def dtype(self) -> str: ...

    def read(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of a parameter as `dtype`; nothing else is read."""
        ...


class Saved:
    """The parameters in a checkpoint of a run."""

    def __init__(self, checkpoint: run_directory.Checkpoint):
        """Opens the arrays of a checkpoint.

        Raises:
            ValueError: they are not those of the run's architecture.
        """
        self.checkpoint = checkpoint
        self.architecture = checkpoint.architecture
        self._arrays = run_directory.Arrays(checkpoint)
        self.shapes = self._arrays.shapes
        wanted = {m.ours: m.our_shape for m in families.tensor_maps(self.architecture)}
        for name in sorted(wanted.keys() | self.shapes.keys()):
            if wanted.get(name) != self.shapes.get(name):
                raise ValueError(
                    f'{checkpoint.directory} holds {name} of shape {self.shapes.get(name)} where '
                    f'model.architecture in {checkpoint.run / run_directory.CONFIG} asks for '
                    f'{wanted.get(name)}: the two do not belong together.'
                )
        self.dtype = common_dtype(self._arrays.dtypes)

    def read(self, name: str, index: Index, dtype: np.dtype | None = None) -> np.ndarray:
        """A slice of a parameter as `dtype` (None: as stored); nothing else is read."""
        array = self._arrays.read(name, index)
        return array if dtype is None else array.astype(dtype, copy=False)

    def chunk(self, name: str) -> tuple[int, ...]:
        """Shape of the pieces that a parameter is stored in."""
        return self._arrays.chunk(name)

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored."""
        return self._arrays.dtypes[name]


def common_dtype(dtypes: Mapping[str, np.dtype]) -> str:
    """The dtype of most tensors, by name of the tensor; norms may differ from the rest.

    Raises:
        ValueError: one is no floating-point dtype; its tensor is named.
    """
    counts: dict[str, int] = {}
    for place, dtype in dtypes.items():
        name = dtype.name
        if name not in DTYPES and name != 'float64':
            raise ValueError(f'{place} has dtype {name}: weights are {", ".join(DTYPES)}.')
        counts[name] = counts.get(name, 0) + 1
    most = max(counts, key=lambda name: counts[name])
    return most if most in DTYPES else 'float32'


def place(
    parameters: Parameters, shardings: Mapping[str, Any] | None = None, dtype: str = 'float32'
) -> dict[str, Any]:
    """Reads open parameters into their shards.

    Args:
        parameters: Open files.
        shardings: `jax.sharding.Sharding` by parameter name; each process reads the slices of its
            own devices. None: whole NumPy arrays, and JAX is not needed.
        dtype: 'float32', 'bfloat16' or 'float16'.
    Returns:
        Arrays by checkpoint name.
    """
    numbers = DTYPES[dtype]
    if shardings is None:
        return {
            name: parameters.read(name, tuple(slice(0, n) for n in shape), numbers)
            for name, shape in parameters.shapes.items()
        }
    import jax

    def array(name: str, shape: tuple[int, ...]) -> jax.Array:
        read: dict[Any, np.ndarray] = {}  # devices that hold the same shard share one reading

        def shard(index: Index | None) -> np.ndarray:
            assert index is not None
            key = tuple(s.indices(n) for s, n in zip(index, shape, strict=True))
            if key not in read:
                read[key] = parameters.read(name, index, numbers)
            return read[key]

        return jax.make_array_from_callback(shape, shardings[name], shard)

    arrays = {}
    for name, shape in parameters.shapes.items():
        arrays[name] = array(name, shape)
        # Transfers are asynchronous: without waiting, the host copies of many parameters pile up.
        arrays[name].block_until_ready()
    return arrays
