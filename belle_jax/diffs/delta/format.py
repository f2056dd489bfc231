"""The file format of a delta: how one model differs from another, to the bit.

A delta is a directory. `delta.json` describes it and is written last; `delta-00001.zst`, ... hold
blocks one behind the other, in the order in which `delta.json` lists what they belong to, none
across two files. Its fields:

    format, version   'belle-jax-delta', 1
    sha256            of this JSON object without this field, as `digest` writes it
    base              what the base is called, for messages
    block             bytes of a block before compression (the last one of a tensor has fewer)
    data              [{name, size, sha256}]: the files of blocks
    tensors           [{name, dtype, shape, sha256, base, blocks}], in the order of the tuned model
    files             [{name, size, sha256, blocks}]: the tuned model's small files

A tensor's `sha256` is that of its bytes in C order, little-endian. `base` is null or {name, dtype,
shape, sha256}, the tensor that it is compared with; `blocks` are the sizes of its compressed blocks
in bytes. dtypes are written as in safetensors. A block is made of bytes n·block to (n+1)·block of
the tensor and of what faces them: the base's numbers at the same places, cast to the tuned dtype
(to nearest, ties to even; float64 by way of float32 where that is what bfloat16 asks for), and
zeros for rows that it lacks.

1. The bits of the two are XORed. XOR does not tell in which direction a number moved.
2. If the tensor is of floating-point numbers, they are put in order of the eight bits that follow
   the sign of the base's number, smallest first, equal ones as they stand. These are its exponent
   (or most of it, or a little more), and how many bits of a number change depends on it.
3. They are split into planes: all first bytes, then all second bytes, ...
4. The planes are compressed as one zstandard frame, with its content's size and checksum; so a data
   file is a valid `.zst` file.

Where `base` is null, 1 and 2 are left out. A small file is a tensor of bytes without a base; where
its `blocks` are null it is the base's file of the same name.

What this gives on two fine-tuned bfloat16 models (benchmarks/results/delta_cpu.json), in % of the
weight files, at level 1: XOR alone 19.8 and 35.4; with planes 15.6 and 28.2; ordered 9.7 and 24.9.
"""

import dataclasses
import fnmatch
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from belle_jax.formats import huggingface
from belle_jax.weights import safetensors
from belle_jax.weights.tensors import map_file

NAME = 'delta.json'
FORMAT, VERSION = 'belle-jax-delta', 1
BLOCK = 2 * 2**20  # a thread holds it a dozen times; larger ones save less than 1 %
MAX_BLOCK = 64 * 2**20
LEVELS = range(1, 23)  # of zstandard


@dataclasses.dataclass(frozen=True)
class Base:
    """The tensor that another is compared with."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor of the tuned model, or one of its small files (dtype 'U8', shape [bytes]).

    Attributes:
        name: As the tuned model has it.
        dtype: As safetensors writes it.
        shape: Of the whole tensor.
        sha256: Of its bytes.
        base: What it is compared with; None where it is carried whole.
        blocks: Bytes of its compressed blocks; None for a file that is the base's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    base: Base | None
    blocks: tuple[int, ...] | None

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return safetensors.DTYPES[self.dtype].itemsize

    @property
    def size(self) -> int:
        """Bytes, uncompressed."""
        return math.prod(self.shape) * self.itemsize


@dataclasses.dataclass(frozen=True)
class Data:
    """A file of blocks."""

    path: Path
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Block:
    """A compressed block.

    Attributes:
        entry: Whose it is.
        start: Byte of the entry with which it begins.
        size: Its bytes when decoded.
        data: Its bytes in the mapped file.
    """

    entry: Entry
    start: int
    size: int
    data: np.ndarray


@dataclasses.dataclass(frozen=True)
class Delta:
    """An open delta."""

    directory: Path
    base: str
    block: int
    tensors: tuple[Entry, ...]
    files: tuple[Entry, ...]
    data: tuple[Data, ...]

    def blocks(self) -> list[Block]:
        """All blocks in order.

        Raises:
            ValueError: they do not fill the files; a fault in the manifest.
        """
        found, left = [], [map_file(d.path) for d in reversed(self.data)]
        for entry in (*self.tensors, *self.files):
            for number, size in enumerate(entry.blocks or ()):
                if left and not left[-1].size:
                    left.pop()
                if not left or size > left[-1].size:
                    raise ValueError(f'block {number} of {entry.name} is in none of its files')
                start = number * self.block
                raw = min(self.block, entry.size - start)
                found.append(Block(entry, start, raw, left[-1][:size]))
                left[-1] = left[-1][size:]
        if any(rest.size for rest in left):
            raise ValueError('its files hold more than it lists')
        return found


# --- blocks ---------------------------------------------------------------------------------------


def encode(
    numbers: np.ndarray, theirs: np.ndarray | None, compressor: zstandard.ZstdCompressor
) -> bytes:
    """A compressed block.

    Args:
        numbers: Of the tuned model, contiguous [n].
        theirs: What faces them, of the same dtype [n]; None where there is no base.
        compressor: As `compressor` gives it.
    """
    bits = numbers.view(f'u{numbers.itemsize}')
    if theirs is not None:
        bits = bits ^ theirs.view(bits.dtype)
        if (order := _order(theirs)) is not None:
            bits = bits[order]
    planes = np.ascontiguousarray(bits.view(np.uint8).reshape(-1, bits.itemsize).T)
    return compressor.compress(planes.data)


def decode(data: np.ndarray, theirs: np.ndarray | None, dtype: np.dtype, count: int) -> np.ndarray:
    """The tuned model's numbers [count] from a compressed block and what faces them.

    Raises:
        ValueError: it is damaged, or is no block of this size.
    """
    try:
        # A frame says how large it becomes: nothing larger is unpacked.
        if zstandard.frame_content_size(data.data) != count * dtype.itemsize:
            raise ValueError('a block has another size than it should')
        raw = zstandard.ZstdDecompressor().decompress(data.data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f'a block cannot be decompressed ({error})') from error
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    bits = np.empty(count, f'u{dtype.itemsize}')
    for place, plane in enumerate(planes):  # six times faster than a transposed copy
        bits.view(np.uint8)[place :: dtype.itemsize] = plane
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


def compressor(level: int) -> zstandard.ZstdCompressor:
    """What `encode` needs; not to be used by two threads at once."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)


# --- the manifest ---------------------------------------------------------------------------------


def digest(values: dict[str, Any]) -> str:
    """SHA-256 of a manifest: of its JSON with sorted keys, without spaces, all in ASCII."""
    text = json.dumps(values, sort_keys=True, separators=(',', ':'), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def comparable(shape: tuple[int, ...], base: tuple[int, ...]) -> bool:
    """Whether two shapes differ in their number of rows at most."""
    return len(shape) == len(base) and shape[1:] == base[1:]


def is_carried(name: str) -> bool:
    """Whether a delta has a file of this name: settings, vocabularies and licences; no code, no
    pickles, and no weights, which go tensor by tensor."""
    return (
        Path(name).name == name
        and not name.startswith('.')
        and not name.endswith('.index.json')
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in huggingface.HUB_FILES)
    )
