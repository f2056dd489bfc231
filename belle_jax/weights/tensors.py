"""A tensor that lies in a file, and a tensor that is to be written to one."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    'float32': np.dtype(np.float32),
    'bfloat16': np.dtype(ml_dtypes.bfloat16),
    'float16': np.dtype(np.float16),
}
"""What weights are converted to, by the name that configs use."""

Index = tuple[slice, ...]

BLOCK = 64 * 2**20  # bytes of a tensor that are in memory while it is copied


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        name: As the file has it.
        file: Where it lies.
        array: A read-only view of the memory-mapped file: no byte is read before it is used, and
            reshaping, transposing and slicing cost nothing until the result is copied.
    """

    name: str
    file: Path
    array: np.ndarray

    @property
    def place(self) -> str:
        """How error messages name it."""
        return f'{self.name} in {self.file}'


@dataclasses.dataclass(frozen=True)
class Planned:
    """A tensor to be written.

    Attributes:
        name: As the file will have it.
        shape: Of the whole tensor.
        dtype: As stored.
        blocks: Yields the tensor's values as consecutive arrays in C order. Called once; only one
            block is alive at a time, so that no tensor need fit in memory.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def write(self, file: IO[bytes]) -> None:
        """Streams the values into an open file.

        Raises:
            ValueError: the blocks do not add up to the shape; a fault in this program.
        """
        written = 0
        for block in self.blocks():
            block = np.ascontiguousarray(block, self.dtype)
            written += block.nbytes
            # A view, not `tobytes`, which would copy.
            file.write(block.reshape(-1).view(np.uint8).data)
        if written != self.size:
            raise ValueError(f'{self.name}: {written} bytes came, its shape needs {self.size}.')


def planned(name: str, array: np.ndarray) -> Planned:
    """A tensor that is in memory already."""
    return Planned(name, array.shape, array.dtype, lambda: iter((array,)))


def view(name: str, array: np.ndarray) -> Planned:
    """A tensor that is a view of mapped files: it is read by blocks of rows, as it is written."""
    rows = max(1, BLOCK * max(1, len(array)) // max(1, array.nbytes)) if array.ndim else 1

    def blocks() -> Iterator[np.ndarray]:
        if not array.ndim:
            yield array
        for start in range(0, len(array) if array.ndim else 0, rows):
            yield array[start : start + rows]

    return Planned(name, array.shape, array.dtype, blocks)


def map_file(path: Path) -> np.ndarray:
    """The bytes of a file as a read-only array that the kernel reads on use.

    The pages belong to the file: they are no anonymous memory, and the kernel drops them at will.
    """
    if path.stat().st_size == 0:
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, mode='r')


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file that appears under its name only when it is complete and on the disk."""
    partial = path.with_name(f'.{path.name}.partial-{os.getpid()}')
    try:
        with partial.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
