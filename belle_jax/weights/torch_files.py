"""Reading and writing PyTorch's `.bin` files without PyTorch and without running what is in them.

Such a file holds a pickle. Here it may name a handful of globals, each replaced by an inert object
of this module; everything else is refused by name before it is called. The numbers are never
unpickled: they stay in the mapped file.
Source: torch/serialization.py and torch/_utils.py of PyTorch 2.13 (zip format since 1.6, and the
    one before).
"""

import dataclasses
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from belle_jax.files import whole_file
from belle_jax.weights import pickles
from belle_jax.weights.pickles import (
    Global,
    Inert,
    InertDict,
    Unreadable,
    bring,
    group,
    integer,
    text,
)
from belle_jax.weights.tensors import Planned, Stored, map_file, natural

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
    """Opens a file that holds a dict from names to tensors, in the zip format or the one before.

    Returns:
        Its tensors by name, mapped, not read; tensors that share a storage share it here.
    Raises:
        ValueError: the file is damaged, or holds something else than tensors, which is named.
    """
    data = map_file(path)
    try:
        if data[:4].tobytes() == b'PK\x03\x04':
            contents, storages, proofs = _read_zip(path, data)
        else:
            (contents, storages), proofs = _read_legacy(data), {}
    except Exception as error:  # what zipfile raises on damage is anything at all
        raise ValueError(
            f'{path} cannot be read as PyTorch weights: {str(error) or repr(error)}. Download it '
            'again, or convert it to safetensors where it comes from.'
        ) from error
    if not isinstance(contents, dict):
        raise ValueError(f'{path} holds a {type(contents).__name__}, not a dict of tensors.')
    tensors = {}
    for name, value in contents.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(f'{path}: {name!r} is a {type(value).__name__}, not a tensor.')
        view = _view(path, name, value, storages)
        tensors[name] = Stored(name, path, view, proofs.get(value.storage.key))
    return tensors


# --- the pickle -----------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class _Storage(Inert):
    dtype: np.dtype
    key: str
    count: int


class _Tensor(Inert):
    __slots__ = ('offset', 'shape', 'storage', 'strides')

    def __init__(self, storage, offset, shape, strides, *_unused):
        if not isinstance(storage, _Storage) or not natural((offset,)):
            raise Unreadable('it has a tensor without a storage or with a malformed offset')
        if not (natural(shape) and natural(strides)) or len(shape) != len(strides):
            raise Unreadable('it has a tensor of a malformed shape or strides')
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides


def _parameter(tensor, *_unused) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise Unreadable('it has a parameter that is not a tensor')
    return tensor


ALLOWED = {
    'collections.OrderedDict': InertDict,
    'torch._utils._rebuild_tensor_v2': _Tensor,
    'torch._utils._rebuild_tensor': _Tensor,
    'torch._utils._rebuild_parameter': _parameter,
    **{f'torch.{name}': dtype for name, dtype in STORAGES.items()},
}


class _Storages(dict[str, _Storage]):
    """The storages that a pickle refers to, by key."""

    def refer(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != 'storage':
            raise Unreadable('it refers to something that is not a storage')
        _, kind, key, _, count, *view = pid
        dtype = kind.meaning if isinstance(kind, Global) else None
        if not isinstance(dtype, np.dtype) or type(key) is not str:
            raise Unreadable('it refers to a malformed storage')
        if type(count) is not int or count < 0:
            raise Unreadable(f'storage {key!r} has a malformed size')
        if view and view[0] is not None:
            raise Unreadable(f'storage {key!r} is a view, as PyTorch before 0.4 wrote')
        storage = self.setdefault(key, _Storage(dtype, key, count))
        if (storage.dtype, storage.count) != (dtype, count):
            raise Unreadable(f'storage {key!r} has two types or sizes')
        return storage


# --- the two containers ---------------------------------------------------------------------------


def _read_zip(path: Path, data: np.ndarray) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
    programs = [name for name in entries if name.split('/', 1)[-1] == 'data.pkl']
    if len(programs) != 1 or len(entries) != len(archive.infolist()):
        raise Unreadable('no single data.pkl in it')
    prefix = programs[0].removesuffix('data.pkl')
    order = entries.get(f'{prefix}byteorder')
    if order is not None and _content(data, order).tobytes() != b'little':
        raise Unreadable('its numbers are big-endian')
    program = _content(data, entries[programs[0]])
    # PyTorch can be told to write no checksums, and then writes zeros.
    has_sums = any(info.CRC for info in entries.values())
    if has_sums and zlib.crc32(program.data) != entries[programs[0]].CRC:
        raise Unreadable('its data.pkl is damaged: it has another checksum')
    found = _Storages()
    contents, _ = pickles.load(program, ALLOWED, found.refer)
    storages, proofs = {}, {}
    for key, storage in found.items():
        if (info := entries.get(f'{prefix}data/{key}')) is None:
            raise Unreadable(f'storage {key!r} is missing')
        # The storage as a whole may be larger than what is referred to, never smaller.
        if info.file_size < storage.count * storage.dtype.itemsize:
            raise Unreadable(f'storage {key!r} is too short')
        storages[key] = _numbers(data, _begin(data, info), storage)
        if has_sums:
            proofs[key] = (_content(data, info), info.CRC)
    return contents, storages, proofs


def _content(data: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of an entry, mapped."""
    begin = _begin(data, info)
    if begin + info.file_size > data.size:
        raise Unreadable(f'truncated in {info.filename!r}')
    return data[begin : begin + info.file_size]


def _begin(data: np.ndarray, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: its local header has lengths of its own."""
    # PyTorch compresses nothing; what is compressed could inflate to any size.
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise Unreadable(f'{info.filename!r} is compressed or encrypted, which PyTorch never does')
    header = info.header_offset
    fields = struct.unpack('<4s22xHH', data[header : header + 30].tobytes())
    if fields[0] != b'PK\x03\x04':
        raise Unreadable(f'no zip entry at byte {header}')
    return header + 30 + fields[1] + fields[2]


def _read_legacy(data: np.ndarray) -> tuple[Any, dict[str, np.ndarray]]:
    found, start, position = _Storages(), [], 0
    for _ in range(3):
        value, position = pickles.load(data, ALLOWED, start=position)
        start.append(value)
    if start[:2] != [LEGACY_MAGIC, LEGACY_PROTOCOL]:
        raise Unreadable('it does not begin as a PyTorch file')
    if not (isinstance(start[2], dict) and start[2].get('little_endian') is True):
        raise Unreadable('its numbers are big-endian')
    contents, position = pickles.load(data, ALLOWED, found.refer, position)
    keys, position = pickles.load(data, ALLOWED, start=position)
    named = isinstance(keys, list) and all(type(key) is str for key in keys)
    if not named or sorted(keys) != sorted(found):
        raise Unreadable('its storages are not those that its tensors use')
    storages = {}
    for key in keys:
        (count,) = struct.unpack('<q', data[position : position + 8].tobytes())
        if count != found[key].count:
            raise Unreadable(f'storage {key!r} has two sizes')
        storages[key] = _numbers(data, position + 8, found[key])
        position += 8 + storages[key].nbytes
    return contents, storages


def _numbers(data: np.ndarray, begin: int, storage: _Storage) -> np.ndarray:
    end = begin + storage.count * storage.dtype.itemsize
    if end > data.size:
        raise Unreadable(f'truncated: storage {storage.key!r} ends at byte {end} of {data.size}')
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
    """Writes a dict of tensors in the zip format, block by block, each with a storage of its own.

    The file appears under its name when it is complete. `torch.load(weights_only=True)` reads it.
    """
    stem = path.stem
    with whole_file(path) as file, zipfile.ZipFile(file, 'w') as archive:
        small = {'data.pkl': _pickle(tensors), 'byteorder': b'little', 'version': b'3\n'}
        for name, content in small.items():
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

    def tensor(key, t):
        kind = bring('torch', STORAGE_NAMES[t.dtype])
        count = integer(math.prod(t.shape))
        storage = group(text('storage'), kind, text(str(key)), text('cpu'), count)
        strides = [math.prod(t.shape[i + 1 :]) for i in range(len(t.shape))]
        hooks = bring('collections', 'OrderedDict') + pickle.EMPTY_TUPLE + pickle.REDUCE
        arguments = group(
            storage + pickle.BINPERSID,
            integer(0),
            group(*map(integer, t.shape)),
            group(*map(integer, strides)),
            pickle.NEWFALSE,
            hooks,
        )
        return bring('torch._utils', '_rebuild_tensor_v2') + arguments + pickle.REDUCE

    items = b''.join(text(t.name) + tensor(key, t) for key, t in enumerate(tensors))
    head = pickle.PROTO + b'\x02' + pickle.EMPTY_DICT
    return head + pickle.MARK + items + pickle.SETITEMS + pickle.STOP
