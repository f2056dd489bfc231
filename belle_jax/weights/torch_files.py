"""Reading and writing PyTorch's `.bin` files without PyTorch and without running what is in them.

Such a file holds a pickle, and a pickle is a program. Here its program may name a handful of
globals, each replaced by an inert object of this module; everything else is refused by name before
it is called. The numbers are never unpickled: they stay in the mapped file.
Source: torch/serialization.py and torch/_utils.py of PyTorch 2.13 (zip format since 1.6, and the
    one before).
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from belle_jax.files import whole_file
from belle_jax.weights.tensors import Planned, Stored, map_file

STORAGES = {
    'DoubleStorage': np.dtype('<f8'),
    'FloatStorage': np.dtype('<f4'),
    'HalfStorage': np.dtype('<f2'),
    'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'LongStorage': np.dtype('<i8'),
    'IntStorage': np.dtype('<i4'),
    'ShortStorage': np.dtype('<i2'),
    'CharStorage': np.dtype('i1'),
    'ByteStorage': np.dtype('u1'),
    'BoolStorage': np.dtype('?'),
}
STORAGE_NAMES = {dtype: name for name, dtype in STORAGES.items()}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def read(path: Path) -> dict[str, Stored]:
    """Opens a file that holds a dict from names to tensors.

    Args:
        path: A `.bin`, `.pt` or `.pth` file in PyTorch's zip format, or the one before it.
    Returns:
        Its tensors by name, mapped, not read; tensors that share a storage share it here.
    Raises:
        ValueError: the file is damaged, or holds something else than tensors; the message names
            what.
    """
    data = map_file(path)
    try:
        if data[:4].tobytes() == b'PK\x03\x04':
            contents, storages = _read_zip(path, data)
        else:
            contents, storages = _read_legacy(path, data)
    except Exception as error:  # what pickle and zipfile raise on damage is anything at all
        raise ValueError(
            f'{path} cannot be read as PyTorch weights: {error}. Download it again, or convert it '
            'to safetensors where it comes from.'
        ) from error
    if not isinstance(contents, dict):
        raise ValueError(f'{path} holds a {type(contents).__name__}, not a dict of tensors.')
    tensors = {}
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(f'{path}: {name!r} is a {type(value).__name__}, not a tensor.')
        tensors[name] = Stored(name, path, _view(path, name, value, storages))
    return tensors


# --- the pickle -----------------------------------------------------------------------------------


class _Inert:
    """Objects that a pickle can hold but not change: no attribute can be set."""

    __slots__ = ()


class _Storage(_Inert):
    __slots__ = ('count', 'dtype', 'key')

    def __init__(self, dtype: np.dtype, key: str, count: int):
        self.dtype, self.key, self.count = dtype, key, count


class _Tensor(_Inert):
    __slots__ = ('offset', 'shape', 'storage', 'strides')

    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


class _Global(_Inert):
    """An allowed global: what the pickle may call, or a storage's type."""

    __slots__ = ('call', 'dtype')

    def __init__(self, call: Callable[..., Any] | None = None, dtype: np.dtype | None = None):
        self.call, self.dtype = call, dtype

    def __call__(self, *args):
        if self.call is None:
            raise pickle.UnpicklingError('a storage type is called')
        return self.call(*args)


class _Dict(dict):
    """An OrderedDict, of which PyTorch also stores attributes (`_metadata`): they are dropped."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


def _rebuild_tensor(storage, offset, shape, strides, *_unused) -> _Tensor:
    def natural(values):
        return isinstance(values, tuple) and all(type(v) is int and v >= 0 for v in values)

    if not isinstance(storage, _Storage) or not natural((offset,)):
        raise pickle.UnpicklingError('a tensor without a storage or with a malformed offset')
    if not natural(shape) or not natural(strides) or len(shape) != len(strides):
        raise pickle.UnpicklingError(f'a tensor of shape {shape!r} and strides {strides!r}')
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor, *_unused) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise pickle.UnpicklingError('a parameter that is no tensor')
    return tensor


def _allowed() -> dict[tuple[str, str], _Global]:
    calls = {
        ('collections', 'OrderedDict'): _Dict,
        ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
        ('torch._utils', '_rebuild_tensor'): _rebuild_tensor,
        ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
    }
    storages = {('torch', name): _Global(dtype=dtype) for name, dtype in STORAGES.items()}
    return {place: _Global(call) for place, call in calls.items()} | storages


class _Unpickler(pickle.Unpickler):
    """The pickle machine with the exact allow-list above and no other way to a Python object."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.allowed = _allowed()
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(
                f'it asks for {module}.{name}, which is no part of a dict of tensors and was not '
                'run'
            )
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != 'storage':
            raise pickle.UnpicklingError(f'a reference {pid!r} that is no storage')
        _, kind, key, _, count, *view = pid
        dtype = kind.dtype if isinstance(kind, _Global) else None
        if dtype is None or type(key) is not str or type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f'a malformed storage {key!r}')
        if view and view[0] is not None:
            raise pickle.UnpicklingError(f'storage {key!r} is a view, as PyTorch before 0.4 wrote')
        storage = self.storages.setdefault(key, _Storage(dtype, key, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise pickle.UnpicklingError(f'storage {key!r} has two types or sizes')
        return storage


# --- the two containers ---------------------------------------------------------------------------


def _read_zip(path: Path, data: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.split('/', 1)[-1] == 'data.pkl']
        if len(pickles) != 1 or len(entries) != len(archive.infolist()):
            raise pickle.UnpicklingError('no single data.pkl in it')
        prefix = pickles[0].removesuffix('data.pkl')
        if (order := f'{prefix}byteorder') in entries and archive.read(order) != b'little':
            raise pickle.UnpicklingError('its numbers are big-endian')
        unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
        contents = unpickler.load()
    storages = {}
    for key, storage in unpickler.storages.items():
        info = entries.get(f'{prefix}data/{key}')
        if info is None:
            raise pickle.UnpicklingError(f'storage {key!r} is missing')
        # The storage as a whole may be larger than what is referred to, never smaller.
        size = storage.count * storage.dtype.itemsize
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size < size:
            raise pickle.UnpicklingError(f'storage {key!r} is compressed, encrypted or too short')
        begin = _data_begin(data, info.header_offset)
        storages[key] = _numbers(data, begin, storage)
    return contents, storages


def _data_begin(data: np.ndarray, header: int) -> int:
    """Where an entry's bytes begin: its local header has lengths of its own."""
    fields = struct.unpack('<4s22xHH', data[header : header + 30].tobytes())
    if fields[0] != b'PK\x03\x04':
        raise pickle.UnpicklingError(f'no zip entry at byte {header}')
    return header + 30 + fields[1] + fields[2]


def _read_legacy(path: Path, data: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    with path.open('rb') as file:
        start = [_Unpickler(file).load() for _ in range(3)]
        if start[:2] != [LEGACY_MAGIC, LEGACY_PROTOCOL]:
            raise pickle.UnpicklingError('it does not begin as a PyTorch file')
        if not (isinstance(start[2], dict) and start[2].get('little_endian') is True):
            raise pickle.UnpicklingError('its numbers are big-endian')
        unpickler = _Unpickler(file)
        contents = unpickler.load()
        keys = _Unpickler(file).load()
        position = file.tell()
    if not isinstance(keys, list) or sorted(keys) != sorted(unpickler.storages):
        raise pickle.UnpicklingError('its storages are not those that its tensors use')
    storages = {}
    for key in keys:
        storage = unpickler.storages[key]
        (count,) = struct.unpack('<q', data[position : position + 8].tobytes())
        if count != storage.count:
            raise pickle.UnpicklingError(f'storage {key!r} has two sizes')
        storages[key] = _numbers(data, position + 8, storage)
        position += 8 + storages[key].nbytes
    return contents, storages


def _numbers(data: np.ndarray, begin: int, storage: _Storage) -> np.ndarray:
    end = begin + storage.count * storage.dtype.itemsize
    if end > data.size:
        raise pickle.UnpicklingError(
            f'truncated: storage {storage.key!r} ends at byte {end} of {data.size}'
        )
    return data[begin:end].view(storage.dtype)


def _view(path: Path, name: str, t: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    numbers = storages[t.storage.key]
    if math.prod(t.shape) == 0:
        return np.empty(t.shape, numbers.dtype)
    last = t.offset + sum((n - 1) * s for n, s in zip(t.shape, t.strides, strict=True))
    if last >= numbers.size:
        raise ValueError(
            f'{path}: {name} of shape {t.shape}, strides {t.strides} and offset {t.offset} reaches '
            f'beyond its storage of {numbers.size} numbers. The file is damaged or was made to '
            'harm.'
        )
    strides = tuple(s * numbers.itemsize for s in t.strides)
    return np.lib.stride_tricks.as_strided(numbers[t.offset :], t.shape, strides, writeable=False)


# --- writing --------------------------------------------------------------------------------------


def write(path: Path, tensors: Sequence[Planned]) -> None:
    """Writes a dict of tensors in the zip format, block by block.

    Args:
        path: The file; it appears under its name when it is complete.
        tensors: What goes in; each gets a storage of its own. `torch.load(weights_only=True)` reads
            it.
    """
    stem = path.stem
    with whole_file(path) as file, zipfile.ZipFile(file, 'w') as archive:
        for name, content in (
            ('data.pkl', _pickle(tensors)),
            ('byteorder', b'little'),
            ('version', b'3\n'),
        ):
            with archive.open(_entry(file, f'{stem}/{name}', len(content)), 'w') as out:
                out.write(content)
        for key, t in enumerate(tensors):
            with archive.open(_entry(file, f'{stem}/data/{key}', t.size), 'w') as out:
                t.write(out)


def _entry(file: Any, name: str, size: int) -> zipfile.ZipInfo:
    """A stored entry whose bytes begin at a multiple of 64, as PyTorch pads them."""
    info = zipfile.ZipInfo(name)
    info.file_size = size
    zip64 = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0  # the field that zipfile adds itself
    begin = file.tell() + 30 + len(name.encode()) + zip64 + 4
    info.extra = struct.pack('<2sH', b'FB', -begin % 64) + b'Z' * (-begin % 64)
    return info


def _pickle(tensors: Sequence[Planned]) -> bytes:
    """The program that rebuilds the dict, in the few operations that PyTorch itself uses."""

    def integer(value):
        if value < 2**31:
            return pickle.BININT + struct.pack('<i', value)
        return pickle.LONG1 + b'\x08' + struct.pack('<q', value)

    def text(value):
        return pickle.BINUNICODE + struct.pack('<I', len(value.encode())) + value.encode()

    def name(module, attribute):
        return pickle.GLOBAL + f'{module}\n{attribute}\n'.encode()

    def group(*items):
        return pickle.MARK + b''.join(items) + pickle.TUPLE

    def tensor(key, t):
        kind = name('torch', STORAGE_NAMES[t.dtype])
        count = integer(math.prod(t.shape))
        storage = group(text('storage'), kind, text(str(key)), text('cpu'), count)
        strides = [math.prod(t.shape[i + 1 :]) for i in range(len(t.shape))]
        hooks = name('collections', 'OrderedDict') + pickle.EMPTY_TUPLE + pickle.REDUCE
        arguments = group(
            storage + pickle.BINPERSID,
            integer(0),
            group(*map(integer, t.shape)),
            group(*map(integer, strides)),
            pickle.NEWFALSE,
            hooks,
        )
        return name('torch._utils', '_rebuild_tensor_v2') + arguments + pickle.REDUCE

    items = b''.join(text(t.name) + tensor(key, t) for key, t in enumerate(tensors))
    head = pickle.PROTO + b'\x02' + pickle.EMPTY_DICT
    return head + pickle.MARK + items + pickle.SETITEMS + pickle.STOP
