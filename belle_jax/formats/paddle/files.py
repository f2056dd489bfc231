"""Reading and writing Paddle's `.pdparams` files without Paddle and without running one.

Such a file is a pickle of a dict of NumPy arrays. The numbers stay in the mapped file, except where
protocol 2 has spelled them as text or protocols 2 and 3 have cut them into pieces: those are put
together in a temporary file, block by block.
Source: python/paddle/framework/io.py and io_utils.py of paddle 3.3.
"""

import codecs
import contextlib
import math
import pickle
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from belle_jax.files import whole_file
from belle_jax.formats.paddle.machine import Array, Machine, Refused
from belle_jax.weights.tensors import Planned, Stored, map_file

NAME_TABLE = 'StructuredToParameterName@@'  # from names in the model to names in Paddle's graph
PIECES = 'UnpackBigParamInfor@@'  # arrays over 1 GB in protocols 2 and 3, cut into pieces
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
CODES = {
    np.dtype(np.float64): 'f8',
    np.dtype(np.float32): 'f4',
    np.dtype(np.float16): 'f2',
    BFLOAT16: 'u2',  # NumPy has no bfloat16, and Paddle no unsigned 16-bit integers
}
BLOCK = 1 << 24  # bytes that are in memory while text becomes numbers


def read(path: Path) -> dict[str, Stored]:
    """Opens a file that holds a dict from names to arrays.

    Args:
        path: A `.pdparams` file as `paddle.save` writes it, pickle protocols 2 to 5.
    Returns:
        Its tensors by name, mapped, not read; uint16 as bfloat16.
    Raises:
        ValueError: the file is damaged, or holds something else; the message says what.
        OSError: there is no room to put a tensor together that is spelled as text or in pieces.
    """
    data = map_file(path)
    try:
        contents = Machine(data).run()
        if not isinstance(contents, dict):
            raise Refused(f'it holds a {type(contents).__name__}, not a dict of arrays')
        _check_name_table(contents.pop(NAME_TABLE, {}))
        with contextlib.closing(_Reader(path, data)) as reader:
            return reader.tensors(contents)
    except Refused as error:
        raise ValueError(
            f'{path} cannot be read as Paddle weights: {error}. Download it again, or save it anew '
            'where it comes from.'
        ) from error


def _check_name_table(table: Any) -> None:
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise Refused(f'its {NAME_TABLE} is no table of names')


class _Reader:
    """Makes tensors of what the pickle describes."""

    def __init__(self, path: Path, data: np.ndarray) -> None:
        self.path, self.data = path, data
        self._spool: Any = None  # a temporary file, which is gone when nothing maps it any more

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()  # what is mapped stays

    def tensors(self, contents: dict[str, Any]) -> dict[str, Stored]:
        """The tensors by name."""
        cut = contents.pop(PIECES, {})
        arrays = {}
        for name, value in contents.items():
            # Outside of a state dict a tensor is its name in the graph and its array.
            if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
                value = value[1]
            if not isinstance(value, Array) or value.dtype is None:
                raise Refused(f'{name!r} is a {type(value).__name__}, not an array')
            arrays[name] = value
        joined = self._join(cut, arrays)
        numbers = {name: self._numbers(name, array) for name, array in arrays.items()}
        return {n: Stored(n, self.path, a) for n, a in (numbers | joined).items()}

    def _join(self, cut: Any, arrays: dict[str, Array]) -> dict[str, np.ndarray]:
        """The arrays that lie in pieces, each whole; their pieces are taken out of `arrays`."""
        if not isinstance(cut, dict):
            raise Refused(f'its {PIECES} is no table of pieces')
        joined = {}
        for name, entry in cut.items():
            shape = entry.get('OriginShape') if isinstance(entry, dict) else None
            names = entry.get('slices') if isinstance(entry, dict) else None
            if not isinstance(shape, tuple) or not isinstance(names, list) or not names:
                raise Refused(f'{name!r} in its {PIECES} has no shape or no pieces')
            if not all(isinstance(n, str) and n in arrays for n in names):
                raise Refused(f'{name!r} lacks a piece')
            pieces = [arrays.pop(n) for n in names]
            whole = Array(shape, pieces[0].dtype)
            if any(p.dtype != whole.dtype or len(p.shape) != 1 for p in pieces):
                raise Refused(f'{name!r} lies in pieces of several kinds')
            numbers = (self._numbers(n, p) for n, p in zip(names, pieces, strict=True))
            stored = self._put(block for piece in numbers for block in _blocks(piece))
            joined[name] = _view(name, whole, stored)
        return joined

    def _numbers(self, name: str, array: Array) -> np.ndarray:
        if isinstance(array.data, bytes):
            return _view(name, array, np.frombuffer(array.data, np.uint8))
        span = self.data[array.data.begin : array.data.end]
        return _view(name, array, self._put(_decoded(name, span)) if array.data.latin1 else span)

    def _put(self, blocks: Iterator[bytes]) -> np.ndarray:
        """Writes bytes to the temporary file and maps them."""
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile(prefix='belle-paddle-')  # noqa: SIM115
            begin = self._spool.seek(0, 2)
            for block in blocks:
                self._spool.write(block)
            self._spool.flush()
        except OSError as error:
            raise OSError(
                f'{self.path} has tensors that must be put together in {tempfile.gettempdir()}, '
                f'which failed ({error.strerror}): make room there, or set TMPDIR to a directory '
                'on another disk.'
            ) from error
        # The mapping begins at 0 because an offset would have to be a multiple of a page.
        return np.memmap(self._spool, np.uint8, mode='r')[begin:]


def _blocks(array: np.ndarray) -> Iterator[bytes]:
    for start in range(0, array.size, BLOCK):
        yield array[start : start + BLOCK].tobytes()


def _decoded(name: str, text: np.ndarray) -> Iterator[bytes]:
    """The bytes that a UTF-8 text of Latin-1 characters spells."""
    decoder = codecs.getincrementaldecoder('utf-8')()
    try:
        for block in _blocks(text):
            yield decoder.decode(block).encode('latin-1')
        decoder.decode(b'', final=True)
    except UnicodeError as error:
        raise Refused(f'{name!r} is spelled by a text that is not Latin-1') from error


def _view(name: str, array: Array, data: np.ndarray) -> np.ndarray:
    """The numbers of an array in its shape, read-only."""
    assert array.dtype is not None
    if not all(type(n) is int and n >= 0 for n in array.shape):
        raise Refused(f'{name!r} has a malformed shape')
    needed = math.prod(array.shape) * array.dtype.itemsize
    if data.size != needed:
        raise Refused(
            f'{name!r} of shape {array.shape} has {data.size} bytes of numbers instead of {needed}'
        )
    numbers = data.view(BFLOAT16 if array.dtype == np.uint16 else array.dtype)
    if array.fortran:
        return numbers.reshape(array.shape[::-1]).T
    return numbers.reshape(array.shape)


# --- writing --------------------------------------------------------------------------------------


def write(path: Path, tensors: Sequence[Planned]) -> None:
    """Writes a state dict as `paddle.save` does in its protocol 4, block by block.

    Args:
        path: The file; it appears under its name when it is complete.
        tensors: What goes in; bfloat16 as uint16. `paddle.load` reads it, and NumPy alone too.
    """
    with whole_file(path) as file:
        file.write(pickle.PROTO + b'\x04' + pickle.EMPTY_DICT + pickle.MARK)
        for t in tensors:
            before, after = _array(t)
            file.write(_text(t.name) + before)
            t.write(file)
            file.write(after)
        table = b''.join(_text(t.name) * 2 for t in tensors)
        file.write(_text(NAME_TABLE) + pickle.EMPTY_DICT)
        file.write(pickle.MARK + table + pickle.SETITEMS + pickle.SETITEMS + pickle.STOP)


def _array(t: Planned) -> tuple[bytes, bytes]:
    """What stands before and after the numbers of an array."""
    # The old name: NumPy before 1.26 knows no other, and later ones keep it for this.
    rebuild = _global('numpy.core.multiarray', '_reconstruct')
    one_zero = _integer(0) + pickle.TUPLE1
    letter = pickle.SHORT_BINBYTES + b'\x01b'
    kind = _global('numpy', 'ndarray') + one_zero + letter + pickle.TUPLE3
    flags = pickle.NEWFALSE + pickle.NEWTRUE
    dtype = (
        _global('numpy', 'dtype') + _text(CODES[t.dtype]) + flags + pickle.TUPLE3 + pickle.REDUCE
    )
    order = [_integer(3), _text('<'), pickle.NONE * 3, _integer(-1) * 2, _integer(0)]
    dtype += _group(*order) + pickle.BUILD
    state = pickle.MARK + _integer(1) + _group(*map(_integer, t.shape)) + dtype + pickle.NEWFALSE
    size = pickle.BINBYTES8 + struct.pack('<Q', t.size)
    return rebuild + kind + pickle.REDUCE + state + size, pickle.TUPLE + pickle.BUILD


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def _text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack('<I', len(value.encode())) + value.encode()


def _integer(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack('<i', value)
    return pickle.LONG1 + b'\x08' + struct.pack('<q', value)


def _group(*items: bytes) -> bytes:
    return pickle.MARK + b''.join(items) + pickle.TUPLE
