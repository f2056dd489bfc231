"""A tensor that lies in a file, and a tensor that is to be written to one."""

import concurrent.futures
import contextlib
import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

from belle_jax.progress import Progress

DTYPES: dict[str, np.dtype] = {
    'float32': np.dtype(np.float32),
    'bfloat16': np.dtype(ml_dtypes.bfloat16),
    'float16': np.dtype(np.float16),
}
"""What weights are converted to, by the name that configs use."""

Index = tuple[slice, ...]

BLOCK = 64 * 2**20  # bytes of a tensor that are in memory while it is copied
TILE = 256  # rows and columns that are transposed at a time


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    `array` is a read-only view of the memory-mapped file: no byte is read before it is used, and
    reshaping, transposing and slicing cost nothing until the result is copied.
    """

    name: str  # as the file has it
    file: Path
    array: np.ndarray
    proof: tuple[np.ndarray, int] | None = None  # bytes it lies in, and their CRC-32 in the file

    @property
    def place(self) -> str:
        """How error messages name it."""
        return f'{self.name} in {self.file}'


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor to be written.

    `blocks` yields the tensor's values as consecutive arrays in C order. Only one block is alive at
    a time, so that no tensor need fit in memory.
    """

    name: str  # as the file will have it
    shape: tuple[int, ...]  # of the whole tensor
    dtype: np.dtype  # as stored
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def write(self, file: IO[bytes]) -> None:
        """Streams the values into an open file, in which they must add up to the shape."""
        written = 0
        for block in self.blocks():
            block = contiguous(block).astype(self.dtype, copy=False)
            written += block.nbytes
            # A view, not `tobytes`, which would copy.
            file.write(block.reshape(-1).view(np.uint8).data)
        if written != self.size:
            raise ValueError(f'{self.name}: {written} bytes came, its shape needs {self.size}.')


def planned(name: str, array: np.ndarray) -> Planned:
    """A tensor that is an array, such as a view of mapped files: it is read by blocks of rows."""
    table = np.atleast_1d(array)
    rows = max(1, BLOCK * len(table) // max(1, table.nbytes))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(table), rows):
            yield table[start : start + rows]

    return Planned(name, array.shape, array.dtype, blocks)


def contiguous(array: np.ndarray) -> np.ndarray:
    """An array in C order; a transposed matrix goes by tiles, six times as fast as NumPy's copy.

    What is in order already is given back itself.
    """
    if array.ndim != 2 or abs(array.strides[0]) >= abs(array.strides[1]):
        return np.ascontiguousarray(array)
    out = np.empty(array.shape, array.dtype)
    # Rows are mostly a power of two apart, so that a column of them falls into a few cache lines
    # and throws itself out; those of this tile are not.
    tile = np.empty((TILE, TILE + 32), array.dtype)
    for i in range(0, array.shape[0], TILE):
        for j in range(0, array.shape[1], TILE):
            part = array[i : i + TILE, j : j + TILE].T
            held = tile[: part.shape[0], : part.shape[1]]
            held[...] = part
            out[i : i + TILE, j : j + TILE] = held.T
    return out


def in_dtype(tensor: Planned, dtype: np.dtype | None) -> Planned:
    """The same tensor in another dtype; None leaves it as it is.

    A number that is too large for float16 is a ValueError when it is written.
    """
    if dtype is None or tensor.dtype == dtype:
        return tensor

    def cast(block: np.ndarray) -> np.ndarray:
        block = contiguous(block)  # first the order: both in one pass are slower
        with np.errstate(over='ignore'):  # what overflows is looked for below
            out = block.astype(dtype)
        if dtype == np.float16 and np.isinf(out).any() and not np.isinf(block).any():
            raise ValueError(
                f'{tensor.name} holds numbers beyond 65,504, which float16 cannot: convert with '
                '--dtype=bfloat16.'
            )
        return out

    return dataclasses.replace(tensor, dtype=dtype, blocks=lambda: map(cast, tensor.blocks()))


def same(left: Planned, right: Planned) -> bool:
    """Whether two tensors are the same to the bit, block by block; ends at the first difference."""
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    # As bytes: a NaN equals itself.
    pairs = zip(left.blocks(), right.blocks(), strict=True)
    return all(one.tobytes() == other.tobytes() for one, other in pairs)


@contextlib.contextmanager
def proven(tensors: Iterable[Stored]) -> Iterator[None]:
    """Compares checksums on another thread while the block reads the tensors whole.

    Only PyTorch's zip files have any. Slices are read without: a sum is one of all bytes.

    Raises:
        ValueError: at the end of the block, the first tensor whose bytes have another checksum.
    """

    def prove(tensor: Stored, data: np.ndarray, crc: int) -> None:
        if zlib.crc32(data.data) != crc:
            raise ValueError(
                f'{tensor.place} is damaged: it has another checksum than the file says. Copy the '
                'file again; --ignore_crc takes it as it is.'
            )

    proofs = {(t.file, id(t.proof)): (t, *t.proof) for t in tensors if t.proof}
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        proving = [pool.submit(prove, *proof) for proof in proofs.values()]
        yield
        for one in proving:
            one.result()
    finally:
        pool.shutdown(cancel_futures=True)


def shown(tensors: Sequence[Planned], what: str) -> list[Planned]:
    """All that one program writes, as it is; a line shows how many of the bytes are written."""
    total = sum(t.size for t in tensors)
    progress, done = Progress(what, 'MB'), 0

    def blocks(tensor: Planned) -> Iterator[np.ndarray]:
        nonlocal done
        for block in tensor.blocks():
            yield block
            done += block.nbytes
            progress.show(done // 10**6, done / total)
        if done >= total:
            progress.end(done // 10**6)

    return [dataclasses.replace(t, blocks=lambda t=t: blocks(t)) for t in tensors]


def natural(values: Any) -> bool:
    """Whether a value is a list of whole numbers from 0, as shapes and strides are.

    Their product is taken, so they are bounded: NumPy has 64 axes, and a file 2^63 bytes.
    """
    whole = isinstance(values, tuple | list) and len(values) <= 64
    return whole and all(type(v) is int and 0 <= v < 2**63 for v in values)


def common_dtype(dtypes: Mapping[str, np.dtype]) -> str:
    """The dtype of most tensors, by name; norms may differ, integers are a ValueError."""
    counts: dict[str, int] = {}
    for place, dtype in dtypes.items():
        name = dtype.name
        if name not in DTYPES and name != 'float64':
            raise ValueError(f'{place} has dtype {name}: weights are {", ".join(DTYPES)}.')
        counts[name] = counts.get(name, 0) + 1
    most = max(counts, key=lambda name: counts[name])
    return most if most in DTYPES else 'float32'


def map_file(path: Path) -> np.ndarray:
    """The bytes of a file as a read-only array that the kernel reads on use.

    The pages belong to the file: they are not anonymous memory, and the kernel drops them at will.
    """
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode='r')
