"""Our parameters by slices, wherever they lie: published files, or a checkpoint of a run.

Each device's shard is read by itself, so that no host holds the model twice, or anything but its
shards. For a checkpoint neither JAX nor Orbax is needed: TensorStore reads the files that Orbax
wrote (Zarr, in OCDBT or not), any slice of any array, on any machine and whatever mesh wrote them.
What a run freezes is read from where it was written once.
"""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from belle_jax import config, families
from belle_jax.families import Architecture, LowRank, Packing
from belle_jax.json_files import read_json
from belle_jax.runs import run_directory
from belle_jax.weights.tensors import DTYPES, Index, common_dtype

MASTERS = (('params',), ('optimiser', 'masters'))  # where a checkpoint has parameters
CACHE = 64 * 2**20  # bytes for TensorStore: the index of the OCDBT file and chunks half used


class Parameters(Protocol):
    """What both kinds of source offer.

    Attributes:
        architecture: The model.
        shapes: Shape of each parameter by checkpoint name, padding included.
        dtype: In which most numbers are stored: 'float32', 'bfloat16' or 'float16'.
        packing: How the model is quantised; None: it is not.
        adapter: What of an adapter there is beside it; None: nothing.
    """

    @property
    def architecture(self) -> Architecture: ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    @property
    def dtype(self) -> str: ...

    @property
    def packing(self) -> Packing | None: ...

    @property
    def adapter(self) -> LowRank | None: ...

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored; the widest, where its layers differ."""
        ...

    def read(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of a parameter as `dtype`; nothing else is read."""
        ...


def held_dtype(parameters: Parameters, name: str, dtype: str) -> np.dtype:
    """In which dtype a parameter is held.

    That is the one asked for. Of a quantised model codes and scales stay as they are stored, and
    so does what would only grow: the model is to take the memory that its file does.

    Args:
        parameters: Open files.
        name: Of the parameter.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves each parameter as it is stored.
    """
    stored = parameters.dtype_of(name)
    kept = not dtype or stored.kind in 'iu'
    if parameters.packing:
        kept = kept or name.endswith('.scales') or stored.itemsize < DTYPES[dtype].itemsize
    return stored if kept else DTYPES[dtype]


def identity(parameters: Parameters) -> str:
    """A hash that tells models apart by some numbers of every parameter.

    Directory and dtype do not matter. The last layer stands for all: of a checkpoint's layer one
    number is not read without the others.
    """
    found = hashlib.sha256()
    for name, shape in sorted(parameters.shapes.items()):
        index = [slice(0, 1) for _ in shape]
        if name.startswith('blocks.'):
            index[0] = slice(shape[0] - 1, shape[0])
        index[-1] = slice(0, min(64, shape[-1]))
        numbers = parameters.read(name, tuple(index), np.dtype(np.float32))
        found.update(repr((name, tuple(shape))).encode() + np.ascontiguousarray(numbers).tobytes())
    return found.hexdigest()


def place(parameters: Parameters, shardings: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Reads open parameters into their shards.

    Args:
        parameters: Open files.
        shardings: `jax.sharding.Sharding` by name of the parameters wanted; each process reads the
            slices of its own devices.
        dtype: As in `held_dtype`.
    Returns:
        Arrays by checkpoint name.
    """
    import jax

    def array(name: str, shape: tuple[int, ...]) -> jax.Array:
        read: dict[Any, np.ndarray] = {}  # devices that hold the same shard share one reading

        def shard(index: Any) -> np.ndarray:
            key = tuple(s.indices(n) for s, n in zip(index, shape, strict=True))
            if key not in read:
                read[key] = parameters.read(name, index, held_dtype(parameters, name, dtype))
            return read[key]

        return jax.make_array_from_callback(shape, shardings[name], shard)

    arrays = {}
    for name in shardings:
        arrays[name] = array(name, parameters.shapes[name])
        # Transfers are asynchronous: without waiting, the host copies of many parameters pile up.
        arrays[name].block_until_ready()
    return arrays


class Regrouped:
    """Parameters read as if their layers were stacked in other groups than they are.

    A group is what `blocks.0.…`, `blocks.1.…` hold: some layers in order, stacked.

    Attributes:
        shapes: Shape of each parameter in the new groups.
        pieces: For each of them, where each of its layers is stored: in which parameter, and which
            of its layers it is there.
    """

    def __init__(self, parameters: Any, groups: Sequence[int]):
        """Plans the reading.

        Args:
            parameters: With `shapes`, `packing`, `dtype_of` and `read` as in `Parameters`.
            groups: Layers in each new group.
        Raises:
            ValueError: the model does not have that many layers.
        """
        self._parameters = parameters
        self.packing: Packing | None = parameters.packing
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.pieces: dict[str, list[tuple[str, int]]] = {}
        stacks: dict[str, list[str]] = {}
        for name, shape in parameters.shapes.items():
            if name.startswith('blocks.'):
                stacks.setdefault(name.split('.', 2)[2], []).append(name)
            else:
                self.shapes[name], self.pieces[name] = shape, [(name, 0)]
        for rest, stored in stacks.items():
            stored.sort(key=lambda name: int(name.split('.')[1]))
            layers = [(name, i) for name in stored for i in range(parameters.shapes[name][0])]
            if len(layers) != sum(groups):
                raise ValueError(
                    f'{rest} is there for {len(layers)} layers, and the model has {sum(groups)}.'
                )
            left = iter(layers)
            for group, count in enumerate(groups):
                name = f'blocks.{group}.{rest}'
                self.shapes[name] = (count, *parameters.shapes[stored[0]][1:])
                self.pieces[name] = list(itertools.islice(left, count))

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored; the widest, where its layers differ."""
        sources = {source for source, _ in self.pieces[name]}
        return np.result_type(*map(self._parameters.dtype_of, sources))

    def read(self, name: str, index: Index, dtype: np.dtype | None = None) -> np.ndarray:
        """A slice of a parameter; nothing else is read."""
        if not name.startswith('blocks.'):
            return self._parameters.read(name, index, dtype)
        read = []
        for source, run in itertools.groupby(self.pieces[name][index[0]], lambda piece: piece[0]):
            numbers = [number for _, number in run]
            layers = slice(numbers[0], numbers[-1] + 1)
            read.append(self._parameters.read(source, (layers, *index[1:]), dtype))
        return read[0] if len(read) == 1 else np.concatenate(read)


class Arrays:
    """The parameters of a checkpoint as they are stored, in the run's own groups of layers."""

    packing = None

    def __init__(self, checkpoint: run_directory.Checkpoint):
        import tensorstore as ts

        context = ts.Context({'cache_pool': {'total_bytes_limit': CACHE}})
        self._stores: dict[str, Any] = {}
        for folder in filter(None, (checkpoint.directory, checkpoint.frozen)):
            state = folder.absolute() / 'state'
            metadata = read_json(state / '_METADATA')
            driver = 'zarr3' if metadata.get('use_zarr3') else 'zarr'
            base = {'driver': 'file', 'path': f'{state}/'}
            for entry in metadata['tree_metadata'].values():
                keys = [k['key'] for k in entry['key_metadata']]
                # Where there are float32 masters, what was trained in bfloat16 is not read.
                start = next((s for s in MASTERS if keys[: len(s)] == list(s)), ())
                name = '.'.join(keys[len(start) :])
                # A branch without arrays, such as masters that there are not, has an entry too.
                if start and name and (name not in self._stores or len(start) > 1):
                    path = f'{".".join(keys)}/'
                    kvstore = {'driver': 'ocdbt', 'base': base, 'path': path}
                    if not (state / 'manifest.ocdbt').exists():  # of several disks
                        kvstore = {'driver': 'file', 'path': f'{state}/{path}'}
                    spec = {'driver': driver, 'kvstore': kvstore}
                    opened = ts.open(spec, open=True, read=True, context=context)
                    self._stores[name] = opened.result()
        self.shapes = {name: tuple(s.shape) for name, s in self._stores.items()}
        self.dtypes = {name: s.dtype.numpy_dtype for name, s in self._stores.items()}

    def read(self, name: str, index: Index, dtype: np.dtype | None = None) -> np.ndarray:
        """A slice of a parameter as `dtype` (None: as stored)."""
        array = self._stores[name][index].read().result()
        return array if dtype is None else array.astype(dtype, copy=False)

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter is stored."""
        return self.dtypes[name]

    def chunk(self, name: str) -> tuple[int, ...]:
        """Shape of the pieces that a parameter is stored in; one is always read as a whole."""
        return tuple(self._stores[name].chunk_layout.read_chunk.shape)


class Saved(Regrouped):
    """The parameters of a checkpoint, all layers in one group: a kind of `Parameters`.

    Of a run that trained an adapter beside a published model, only what it trained.
    """

    def __init__(self, checkpoint: run_directory.Checkpoint):
        """Opens a checkpoint; arrays of another architecture than the run's are a ValueError."""
        self.architecture = checkpoint.architecture
        self._arrays = Arrays(checkpoint)
        super().__init__(self._arrays, (self.architecture.layers,))
        wanted = {m.ours: m.our_shape for m in families.tensor_maps(self.architecture)}
        trained = config.from_dict(checkpoint.config).adapter
        self.adapter = trained.low_rank(self.architecture)
        if self.adapter:
            maps = families.adapter_maps(self.architecture, self.adapter)
            base = wanted if not checkpoint.base else self.shapes.keys() & wanted.keys()
            wanted = {n: wanted[n] for n in base} | {m.ours: m.our_shape for m in maps}
        for name in sorted(wanted.keys() | self.shapes.keys()):
            if wanted.get(name) != self.shapes.get(name):
                raise ValueError(
                    f'{checkpoint.directory} holds {name} of shape {self.shapes.get(name)} where '
                    f'model.architecture in {checkpoint.run / run_directory.CONFIG} asks for '
                    f'{wanted.get(name)}: the two do not belong together.'
                )
        self.dtype = common_dtype(self._arrays.dtypes)

    def chunk(self, name: str) -> tuple[int, ...]:
        """Shape of the pieces that a parameter is stored in."""
        return self._arrays.chunk(self.pieces[name][0][0])
