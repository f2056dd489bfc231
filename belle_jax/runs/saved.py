"""The parameters of a checkpoint by slices, whatever mesh wrote them.

Neither JAX nor Orbax is needed: TensorStore reads the files that Orbax wrote (OCDBT holding Zarr),
any slice of any array, on any machine. What a run freezes is read from where it was written once.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.runs import run_directory
from belle_jax.weights.parameters import Regrouped, common_dtype
from belle_jax.weights.tensors import Index

CACHE = 64 * 2**20  # bytes for TensorStore: the index of the OCDBT file and chunks half used


class Arrays:
    """The parameters of a checkpoint as they are stored, in the run's own groups of layers.

    Attributes:
        shapes: Shape by name.
        dtypes: dtype by name, as stored.
    """

    def __init__(self, checkpoint: run_directory.Checkpoint):
        import tensorstore as ts

        self._context = ts.Context({'cache_pool': {'total_bytes_limit': CACHE}})
        self._stores: dict[str, Any] = {}
        for folder in (checkpoint.directory, checkpoint.frozen):
            if folder is not None:
                self._open(ts, folder / 'state')
        self.shapes = {name: tuple(s.shape) for name, s in self._stores.items()}
        self.dtypes = {name: s.dtype.numpy_dtype for name, s in self._stores.items()}

    def _open(self, ts: Any, folder: Path) -> None:
        metadata = json.loads((folder / '_METADATA').read_text('utf-8'))
        driver = 'zarr3' if metadata.get('use_zarr3') else 'zarr'
        base = {'driver': 'file', 'path': f'{folder.absolute()}/'}
        for entry in metadata['tree_metadata'].values():
            keys = [k['key'] for k in entry['key_metadata']]
            if keys[0] == 'params':
                kvstore = {'driver': 'ocdbt', 'base': base, 'path': f'{".".join(keys)}/'}
                spec = {'driver': driver, 'kvstore': kvstore}
                opened = ts.open(spec, open=True, read=True, context=self._context).result()
                self._stores['.'.join(keys[1:])] = opened

    def read(self, name: str, index: Index, dtype: np.dtype | None = None) -> np.ndarray:
        """A slice of a parameter as `dtype` (None: as stored)."""
        array = self._stores[name][index].read().result()
        return array if dtype is None else array.astype(dtype, copy=False)

    def chunk(self, name: str) -> tuple[int, ...]:
        """Shape of the pieces that a parameter is stored in; one is always read as a whole."""
        return tuple(self._stores[name].chunk_layout.read_chunk.shape)


class Saved:
    """The parameters of a checkpoint, all layers in one group.

    Attributes:
        checkpoint: It.
        architecture: The model.
        shapes: Shape of each parameter, padding included.
        dtype: In which most numbers are stored.
    """

    def __init__(self, checkpoint: run_directory.Checkpoint):
        """Opens the arrays of a checkpoint.

        Raises:
            ValueError: they are not those of the run's architecture.
        """
        self.checkpoint, self.architecture = checkpoint, checkpoint.architecture
        self._arrays = Arrays(checkpoint)
        self._whole = Regrouped(self._arrays, (self.architecture.layers,))
        self.shapes = self._whole.shapes
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
        return self._whole.read(name, index, dtype)

    def chunk(self, name: str) -> tuple[int, ...]:
        """Shape of the pieces that a parameter is stored in."""
        return self._arrays.chunk(self._whole.pieces[name][0][0])

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored; the widest, where its layers differ."""
        return np.result_type(*(self._arrays.dtypes[n] for n, _ in self._whole.pieces[name]))
