"""Reading and writing Paddle's `.pdparams` files without Paddle and without running one.

Such a file is a pickle of a dict of NumPy arrays. The numbers stay in the mapped file, except where
protocol 2 has spelled them as text or protocols 2 and 3 have cut them into pieces: those are put
together in a temporary file, block by block.
Source: framework/io.py and io_utils.py of paddle 3.3; arrays as numpy 1.26 and 2.4 pickle them.
"""

import codecs
import dataclasses
import math
import pickle
import struct
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from belle_jax.files import whole_file
from belle_jax.weights import pickles
from belle_jax.weights.pickles import (
    Global,
    Inert,
    Span,
    Unreadable,
    brief,
    bring,
    group,
    integer,
    text,
)
from belle_jax.weights.tensors import Planned, Stored, map_file, natural

NAME_TABLE = 'StructuredToParameterName@@'  # from names in the model to names in Paddle's graph
PIECES = 'UnpackBigParamInfor@@'  # arrays over 1 GB in protocols 2 and 3, cut into pieces
CORES = ('core', '_core')  # before and since numpy 2
READ = ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u2', 'u1', 'b1')
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# NumPy has no bfloat16, and Paddle no unsigned 16-bit integers.
WRITTEN = {np.dtype(code): code for code in ('f8', 'f4', 'f2')} | {BFLOAT16: 'u2'}
BLOCK = 1 << 24  # bytes that are in memory while text becomes numbers


@dataclasses.dataclass(frozen=True)
class Latin1:
    """Bytes as protocol 2 spells them: a text, of which each character is a byte."""

    text: str | Span


Parts = tuple[Span | Latin1, ...]  # where the numbers of an array are, one part after the other


@dataclasses.dataclass(slots=True)
class Dtype(Inert):
    """A dtype, before and after its byte order is known."""

    numbers: np.dtype

    def build(self, state: Any) -> None:
        """Takes the byte order."""
        order = state[1] if isinstance(state, tuple) and len(state) == 8 else state
        if order not in ('<', '|'):
            raise Unreadable(f'its numbers are in the byte order {brief(order)}')


@dataclasses.dataclass(slots=True)
class Array(Inert):
    """An array as the pickle describes it; it has no parts before its state comes."""

    shape: tuple[int, ...] = ()
    dtype: np.dtype = BFLOAT16
    fortran: bool = False
    parts: Parts = ()

    def build(self, state: Any) -> None:
        """Takes all that describes it."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise Unreadable('it has an array with a malformed state')
        _, shape, dtype, fortran, data = state
        if not natural(shape) or not isinstance(dtype, Dtype) or type(fortran) is not bool:
            raise Unreadable('it has an array with a malformed shape, dtype or order')
        if not isinstance(data, Span | Latin1):
            raise Unreadable(f'it has an array whose numbers are a {type(data).__name__}')
        self.shape, self.dtype, self.fortran, self.parts = shape, dtype.numbers, fortran, (data,)


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if not isinstance(kind, Global) or kind.name != 'numpy.ndarray':
        raise Unreadable('it makes an array of an unknown kind')
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """How protocol 5 writes an array."""
    if order not in ('C', 'F'):
        raise Unreadable(f'it has an array in the order {brief(order)}')
    array = Array()
    array.build((1, shape, dtype, order == 'F', data))
    return array


def _dtype(code: Any, align: Any = False, copy: Any = False) -> Dtype:
    if code not in READ:
        raise Unreadable(f'it has an array of dtype {brief(code)}, not of numbers')
    return Dtype(np.dtype(code))


def _encode(spelled: Any, encoding: Any) -> Latin1:
    if encoding != 'latin1' or not isinstance(spelled, str | Span):
        raise Unreadable(f'it has bytes in the encoding {brief(encoding)}')
    return Latin1(spelled)


def _tuple(items: Any) -> tuple:
    """How Paddle writes a tensor outside of a state dict: (name, array)."""
    if not isinstance(items, tuple):
        raise Unreadable('it makes a tuple of something else')
    return items


ALLOWED = {
    'numpy.ndarray': None,
    'numpy.dtype': _dtype,
    '_codecs.encode': _encode,
    'collections.OrderedDict': pickles.InertDict,
    'builtins.tuple': _tuple,
    '__builtin__.tuple': _tuple,
    **{f'numpy.{core}.multiarray._reconstruct': _reconstruct for core in CORES},
    **{f'numpy.{core}.numeric._frombuffer': _from_buffer for core in CORES},
}


# --- reading --------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Stored]:
    """Opens a file that holds a dict from names to arrays, as `paddle.save` writes it.

    Returns:
        Its tensors by name, mapped, not read; uint16 as bfloat16.
    Raises:
        ValueError: the file is damaged, or holds something else; the message says what.
        OSError: there is no room to put a tensor together that is spelled as text or in pieces.
    """
    data = map_file(path)
    try:
        contents, end = pickles.load(data, ALLOWED)
        if end != data.size:
            raise Unreadable(f'it ends before the file does, at byte {end}')
        if not isinstance(contents, dict):
            raise Unreadable(f'it holds a {type(contents).__name__}, not a dict of arrays')
        arrays = _arrays(contents)
        numbers = _numbers(data, arrays.values())
        return {n: Stored(n, path, _view(n, a, numbers[a.parts])) for n, a in arrays.items()}
    except Unreadable as error:
        raise ValueError(
            f'{path} cannot be read as Paddle weights: {error}. Download it again, or save it anew '
            'where it comes from.'
        ) from error
    except OSError as error:
        if error.filename == str(path):
            raise
        raise OSError(
            f'{path} has tensors that must be put together in {tempfile.gettempdir()}, which '
            f'failed ({error.strerror}): make room there, or set TMPDIR to a directory on another '
            'disk.'
        ) from error


def _arrays(contents: dict[str, Any]) -> dict[str, Array]:
    """The arrays by name, those that lie in pieces whole."""
    tables = [contents.pop(name, {}) for name in (NAME_TABLE, PIECES)]
    if not all(isinstance(table, dict) for table in tables):
        raise Unreadable(f'its {NAME_TABLE} or {PIECES} is not a table')
    arrays = {}
    for name, value in contents.items():
        # Outside of a state dict a tensor is its name in the graph and its array.
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            value = value[1]
        if not isinstance(name, str):
            raise Unreadable(f'it has a {type(name).__name__} for a name')
        if not isinstance(value, Array) or not value.parts:
            raise Unreadable(f'{name!r} is a {type(value).__name__}, not an array')
        arrays[name] = value
    for name, entry in tables[1].items():
        match entry:
            case {'OriginShape': shape, 'slices': [_, *_] as names} if natural(shape):
                pieces = [arrays.pop(n) for n in names if isinstance(n, str) and n in arrays]
            case _:
                raise Unreadable(f'{name!r} in its {PIECES} has no shape or no pieces')
        if len(pieces) < len(names):
            raise Unreadable(f'{name!r} lacks a piece')
        if any(p.dtype != pieces[0].dtype or len(p.shape) != 1 for p in pieces):
            raise Unreadable(f'{name!r} lies in pieces of several kinds')
        parts = tuple(part for piece in pieces for part in piece.parts)
        arrays[name] = Array(shape, pieces[0].dtype, parts=parts)
    return arrays


def _numbers(data: np.ndarray, arrays: Collection[Array]) -> dict[Parts, np.ndarray]:
    """The bytes of all parts of each array, mapped.

    Those that do not lie in the file as they are go into a temporary one, which is gone when
    nothing maps it any more.
    """
    found: dict[Parts, np.ndarray] = {}
    places: dict[Parts, slice] = {}
    with tempfile.SpooledTemporaryFile(1, prefix='belle-paddle-') as spool:
        for parts in dict.fromkeys(array.parts for array in arrays):
            if len(parts) == 1 and isinstance(parts[0], Span):
                found[parts] = data[parts[0].begin : parts[0].end]
                continue
            begin = spool.tell()
            for part in parts:
                spool.writelines(_blocks(data, part))
                if spool.tell() > data.size:
                    raise Unreadable('its arrays hold more numbers than the file')
            places[parts] = slice(begin, spool.tell())
        # Mapped from 0, because an offset would have to be a multiple of a page.
        joined = np.memmap(spool, np.uint8, mode='r') if spool.tell() else data[:0]
    return found | {parts: joined[place] for parts, place in places.items()}


def _blocks(data: np.ndarray, part: Span | Latin1) -> Iterator[bytes]:
    """The bytes of a part, which may be spelled as a text of Latin-1 characters."""
    place = part.text if isinstance(part, Latin1) else part
    if isinstance(place, Span):
        starts = range(place.begin, place.end, BLOCK)
        blocks = (data[i : min(i + BLOCK, place.end)].tobytes() for i in starts)
    else:
        blocks = iter((place.encode('utf-8', 'surrogatepass'),))
    if isinstance(part, Latin1):
        blocks = (text.encode('latin-1') for text in codecs.iterdecode(blocks, 'utf-8'))
    try:
        yield from blocks
    except UnicodeError as error:
        raise Unreadable('it has an array that is spelled by a text that is not Latin-1') from error


def _view(name: str, array: Array, data: np.ndarray) -> np.ndarray:
    """The numbers of an array in its shape, read-only."""
    needed = math.prod(array.shape) * array.dtype.itemsize
    if data.size != needed:
        raise Unreadable(
            f'{name!r} of shape {array.shape} has {data.size} bytes of numbers instead of {needed}'
        )
    numbers = data.view(BFLOAT16 if array.dtype == np.uint16 else array.dtype)
    return numbers.reshape(array.shape, order='F' if array.fortran else 'C')


# --- writing --------------------------------------------------------------------------------------


def write(path: Path, tensors: Sequence[Planned]) -> None:
    """Writes a state dict as `paddle.save` does in its protocol 4, block by block.

    The file appears under its name when it is complete; bfloat16 goes in as uint16. `paddle.load`
    reads it, and NumPy alone too.
    """
    table = b''.join(text(t.name) * 2 for t in tensors)
    with whole_file(path) as file:
        file.write(pickle.PROTO + b'\x04' + pickle.EMPTY_DICT + pickle.MARK)
        for t in tensors:
            file.write(text(t.name) + _before(t))
            t.write(file)
            file.write(pickle.TUPLE + pickle.BUILD)
        file.write(text(NAME_TABLE) + pickle.EMPTY_DICT)
        file.write(pickle.MARK + table + pickle.SETITEMS + pickle.SETITEMS + pickle.STOP)


def _before(t: Planned) -> bytes:
    """What stands before the numbers of an array."""
    # The old name: NumPy before 1.26 knows no other, and later ones keep it for this.
    rebuild = bring('numpy.core.multiarray', '_reconstruct')
    kind = bring('numpy', 'ndarray') + integer(0) + pickle.TUPLE1 + pickle.SHORT_BINBYTES + b'\x01b'
    kind += pickle.TUPLE3
    code = text(WRITTEN[t.dtype]) + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3
    order = group(integer(3), text('<'), pickle.NONE * 3, integer(-1) * 2, integer(0))
    dtype = bring('numpy', 'dtype') + code + pickle.REDUCE + order + pickle.BUILD
    state = pickle.MARK + integer(1) + group(*map(integer, t.shape)) + dtype + pickle.NEWFALSE
    size = pickle.BINBYTES8 + struct.pack('<Q', t.size)
    return rebuild + kind + pickle.REDUCE + state + size
