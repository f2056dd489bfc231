"""The blocks of a delta: numbers of two models that face each other, and what is left of both.

A block is made of bytes n·BLOCK to (n+1)·BLOCK of a tuned tensor and of what faces them: the base's
numbers at the same places, cast to the tuned dtype (to nearest, ties to even; float64 by way of
float32 where that is what bfloat16 asks for), and zeros for rows that it lacks.

1. The bits of the two are XORed. XOR does not tell in which direction a number moved.
2. If the tensor is of floating-point numbers, they are put in order of the eight bits that follow
   the sign of the base's number, smallest first, equal ones as they stand. These are its exponent
   (or most of it, or a little more), and how many bits of a number change depends on it.
3. They are split into planes: all first bytes, then all second bytes, ...
4. The planes are compressed as one zstandard frame, with its content's size and checksum; so a data
   file is a valid `.zst` file.

Without a base, 1 and 2 are left out. What this gives on two fine-tuned bfloat16 models
(benchmarks/results/delta_cpu.json), in % of the weight files, at level 1: XOR alone 19.8 and 35.4;
with planes 15.6 and 28.2; ordered 9.7 and 24.9.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import zstandard

from belle_jax.weights.tensors import Stored

BLOCK = 2 * 2**20  # bytes; a thread holds it a dozen times; larger ones save less than 1 %
LEVELS = range(1, 23)  # of zstandard


def encode(array: np.ndarray, base: Stored | None, start: int, level: int) -> bytes:
    """Compresses the block that begins at byte `start` of a tuned tensor, against its base's."""
    first = start // array.itemsize
    numbers = flat(array, first, first + BLOCK // array.itemsize)
    theirs = facing(base, numbers.dtype, first, len(numbers))
    bits = numbers.view(f'u{numbers.itemsize}')
    if theirs is not None:
        bits = bits ^ theirs.view(bits.dtype)
        if (order := _order(theirs)) is not None:
            bits = bits[order]
    planes = np.ascontiguousarray(bits.view(np.uint8).reshape(-1, bits.itemsize).T)
    return zstandard.ZstdCompressor(level, write_checksum=True).compress(planes.data)


def decode(
    data: np.ndarray, base: Stored | None, dtype: np.dtype, start: int, size: int
) -> np.ndarray:
    """The tuned model's numbers, of `size` bytes in all, from what `encode` gave for them.

    Raises:
        ValueError: it is damaged, or is not a block of this size.
    """
    try:
        # A frame says how large it becomes: nothing larger is unpacked.
        if zstandard.frame_content_size(data.data) != size:
            raise ValueError('a block has another size than it should')
        raw = zstandard.ZstdDecompressor().decompress(data.data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f'a block cannot be decompressed ({error})') from error
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    bits = np.empty(planes.shape[1], f'u{dtype.itemsize}')
    for place, plane in enumerate(planes):  # six times faster than a transposed copy
        bits.view(np.uint8)[place :: dtype.itemsize] = plane
    theirs = facing(base, dtype, start // dtype.itemsize, len(bits))
    if theirs is not None:
        if (order := _order(theirs)) is not None:
            ordered, bits = bits, np.empty_like(bits)
            bits[order] = ordered
        bits ^= theirs.view(bits.dtype)
    return bits.view(dtype)


def _order(theirs: np.ndarray) -> np.ndarray | None:
    if theirs.dtype.kind not in 'fV':  # V: bfloat16
        return None
    bits = theirs.view(f'u{theirs.itemsize}')
    exponents = (bits >> (8 * theirs.itemsize - 9)).astype(np.uint8)  # the sign falls out
    return np.argsort(exponents, kind='stable')  # by counting, for bytes


def facing(base: Stored | None, dtype: np.dtype, start: int, count: int) -> np.ndarray | None:
    """The base's numbers at some places of a tuned tensor, cast to its dtype.

    Args:
        base: Its tensor, whose shape differs in the number of rows at most; or None.
        start: First place, in C order.
    Returns:
        [count], zeros where the base has no such row; None if it has nothing there.
    """
    if base is None or start >= base.array.size:
        return None
    theirs = flat(base.array, start, start + count)
    if theirs.dtype != dtype:
        # What is too large becomes infinite, and the tuned bits come back all the same.
        with np.errstate(over='ignore', invalid='ignore'):
            theirs = theirs.astype(dtype)
    if len(theirs) < count:
        theirs = np.concatenate([theirs, np.zeros(count - len(theirs), dtype)])
    return theirs


def flat(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Numbers start to stop of an array in C order; a copy only where it lies otherwise."""
    if array.flags.c_contiguous:
        return array.reshape(-1)[start:stop]
    row = array.size // len(array)
    first = start // row
    rows = np.ascontiguousarray(array[first : -(-stop // row)]).reshape(-1)
    return rows[start - first * row : stop - first * row]


def sha256(array: np.ndarray) -> str:
    """Of an array's bytes in C order; not more than a block is copied at a time."""
    digest, step = hashlib.sha256(), BLOCK // array.itemsize
    for start in range(0, array.size, step):
        digest.update(flat(array, start, start + step).view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def ahead(tasks: Iterable[Callable[[], Any]], threads: int = 0) -> Iterator[Iterator[Any]]:
    """Yields the results of tasks in their order, a few of them computed ahead.

    Args:
        tasks: Taken one by one, so that they may be many; what they do should mostly be outside of
            the interpreter's lock (compression, checksums, large arrays). An error of theirs is
            raised where the result would come.
        threads: That work; 0 for one a processor.
    """
    threads = threads or len(os.sched_getaffinity(0))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()

        def results() -> Iterator[Any]:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield results()
        finally:
            for future in waiting:  # after an error, what has not begun need not
                future.cancel()
