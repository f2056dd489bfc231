"""The file format of a delta, and its manifest, of which every field is checked before it is used.

A delta is a directory. `delta.json` describes it and is written last; `delta-00001.zst`, ... hold
blocks (see `blocks`) one behind the other, in the order in which `delta.json` lists what they
belong to, none across two files. Its fields:

    format, version   'belle-jax-delta', 1
    sha256            of this JSON object without this field, as `digest` writes it
    base              what the base is called, for messages
    block             bytes of a block before compression (the last one of a tensor has fewer)
    data              [{name, size, sha256}]: the files of blocks
    tensors           [{name, dtype, shape, sha256, base, blocks}], in the order of the tuned model
    files             [{name, size, sha256, blocks}]: the tuned model's small files

A tensor's `sha256` is that of its bytes in C order, little-endian. `base` is null or {name, dtype,
shape, sha256}, the tensor that it is compared with; `blocks` are the sizes of its compressed blocks
in bytes. dtypes are written as in safetensors. A small file is a tensor of bytes without a base;
where its `blocks` are null it is the base's file of the same name.
"""

import dataclasses
import fnmatch
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax.formats import huggingface
from belle_jax.json_files import read_json
from belle_jax.weights.safetensors import DTYPES
from belle_jax.weights.tensors import map_file

NAME = 'delta.json'
FORMAT, VERSION = 'belle-jax-delta', 1
MAX_BLOCK = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor, as a delta tells it from others; its dtype is as safetensors writes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes, uncompressed."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclasses.dataclass(frozen=True)
class Carried(Tensor):
    """A tensor of the tuned model, or one of its small files (dtype 'U8', shape [bytes])."""

    base: Tensor | None  # what it is compared with; None where it is carried whole
    blocks: tuple[int, ...] | None  # bytes, compressed; None for a file that is the base's


@dataclasses.dataclass(frozen=True)
class CodedBlock:
    """A block: the byte of its tensor at which it starts, its size decoded, its bytes coded."""

    of: Carried
    start: int
    size: int
    data: np.ndarray


@dataclasses.dataclass(frozen=True)
class Delta:
    """An open delta; `called` is how messages name its base, `data` has checksums of its files."""

    directory: Path
    called: str
    tensors: tuple[Carried, ...]
    files: tuple[Carried, ...]
    data: dict[Path, str]
    blocks: tuple[CodedBlock, ...]


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


# --- reading what comes from somebody else --------------------------------------------------------


def read(directory: Path) -> Delta:
    """Opens what `make` wrote; reads its manifest alone.

    Raises:
        ValueError: it is not a delta, is damaged or truncated; what is wrong with it is named.
    """
    path = directory / NAME
    if not path.is_file():
        raise ValueError(
            f'{directory} is not a delta: {NAME} is missing, which is written when all the rest is '
            'there. Complete the download.'
        )
    values = read_json(path)
    if values.get('format') != FORMAT or values.get('version') != VERSION:
        raise ValueError(
            f'{path} has format {values.get("format")!r} and version {values.get("version")!r}: '
            f'{FORMAT!r} of version {VERSION} is read here.'
        )
    expected = values.pop('sha256', None)
    if digest(values) != expected:
        raise ValueError(f'{path} is damaged: its contents have another SHA-256. Get it again.')
    try:
        return _parse(directory, values)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        told = str(error) if isinstance(error, ValueError) else f'a field is amiss ({error!r})'
        raise ValueError(f'{path} is damaged: {told}. Get the delta again.') from error


def _parse(directory: Path, values: dict[str, Any]) -> Delta:
    block = _natural(values['block'])
    if not 0 < block <= MAX_BLOCK or block % 8:
        raise ValueError(f'blocks of {block} bytes')
    tensors = tuple(
        Carried(
            *_described(t),
            None if t['base'] is None else Tensor(*_described(t['base'])),
            _sizes(t['blocks']),
        )
        for t in values['tensors']
    )
    files = tuple(
        Carried(
            *_described(f | {'dtype': 'U8', 'shape': [f['size']]}),
            None,
            None if f['blocks'] is None else _sizes(f['blocks']),
        )
        for f in values['files']
    )
    for entry in (*tensors, *files):
        if entry.blocks is not None and len(entry.blocks) != -(-entry.size // block):
            raise ValueError(f'{entry.name} has {len(entry.blocks)} blocks')
        if entry.base and not comparable(entry.shape, entry.base.shape):
            raise ValueError(f'{entry.name} cannot be compared with {list(entry.base.shape)}')
    for file in files:
        if not is_carried(file.name):
            raise ValueError(f'it holds a file {file.name!r}, which no delta may')
    for entries in (tensors, files):
        if len({e.name for e in entries}) != len(entries):
            raise ValueError('a name occurs twice')
    data = {_data_file(directory, d): _text(d['sha256']) for d in values['data']}
    called = f'the base {_text(values["base"])!r}'
    return Delta(directory, called, tensors, files, data, _cut(data, (*tensors, *files), block))


def _data_file(directory: Path, values: Any) -> Path:
    name, size = _text(values['name']), _natural(values['size'])
    if Path(name).name != name:
        raise ValueError(f'{name!r} is not a file beside it')
    if not (path := directory / name).is_file():
        raise ValueError(f'{name}, which it lists, is missing')
    if (found := path.stat().st_size) != size:
        raise ValueError(f'{name} has {found} bytes instead of {size}')
    return path


def _cut(data: Iterable[Path], entries: Iterable[Carried], block: int) -> tuple[CodedBlock, ...]:
    """Finds every block in the files, which they must fill."""
    found, left = [], [map_file(path) for path in data][::-1]
    for entry in entries:
        for number, size in enumerate(entry.blocks or ()):
            if left and not left[-1].size:
                left.pop()
            if not left or size > left[-1].size:
                raise ValueError(f'block {number} of {entry.name} is in none of its files')
            start = number * block
            found.append(CodedBlock(entry, start, min(block, entry.size - start), left[-1][:size]))
            left[-1] = left[-1][size:]
    if any(rest.size for rest in left):
        raise ValueError('its files hold more than it lists')
    return tuple(found)


def _described(values: Any) -> tuple[str, str, tuple[int, ...], str]:
    if values['dtype'] not in DTYPES:
        raise ValueError(f'the dtype {values["dtype"]!r} is not known')
    name, shape = _text(values['name']), _sizes(values['shape'])
    return name, values['dtype'], shape, _text(values['sha256'])


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f'{value!r} is not a text')
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f'{value!r} is not a natural number')
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    return tuple(map(_natural, values))
