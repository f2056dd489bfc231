"""Reading and writing `.safetensors` files without holding a tensor in memory.

The `safetensors` library is not enough for either way. Its writer takes whole tensors; here a
header is written first, which needs shapes alone, and then row blocks as they are made. Its reader
returns copies of slices of the file's own layout; here a tensor is a view of the mapped file, which
can be folded into heads and transposed before it is sliced, so that any slice of *our* layout is
one strided copy.
Source: the format as github.com/huggingface/safetensors describes it; the checks are those of its
    reader.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from belle_jax.files import whole_file
from belle_jax.json_files import JSON_MAX, parse_json
from belle_jax.weights.tensors import Planned, Stored, map_file, natural

DTYPES = {
    f'{kind}{8 * size}': np.dtype(f'<{kind.lower()}{size}')
    for kind in 'FIU'
    for size in (8, 4, 2, 1)
    if (kind, size) != ('F', 1)
}
DTYPES |= {'BF16': np.dtype(ml_dtypes.bfloat16), 'BOOL': np.dtype('?')}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: Path) -> dict[str, Stored]:
    """Opens a `.safetensors` file: its tensors by name, mapped, not read.

    Raises:
        ValueError: the file is truncated or malformed; the message names it and the tensor.
    """
    data = map_file(path)
    header, start = _header(path, data)
    tensors, spans = {}, []
    for name, entry in header.items():
        if name == '__metadata__':
            continue
        dtype, shape, begin, end = _entry(path, name, entry)
        if start + end > data.size:
            raise ValueError(
                f'{path} is truncated: {name} ends at byte {start + end} of a file of {data.size}. '
                'Download or copy it again.'
            )
        spans.append((begin, end, name))
        array = data[start + begin : start + end].view(dtype).reshape(shape)
        tensors[name] = Stored(name, path, array)
    _check_spans(path, sorted(spans), data.size - start)
    return tensors


def write(path: Path, tensors: Sequence[Planned]) -> None:
    """Writes a file, block by block; it appears under its name when it is complete.

    Args:
        path: The file.
        tensors: What goes in, in this order; of one dtype, or the larger dtypes first (alignment).
    """
    header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}  # readers of PyTorch weights ask
    position = 0
    for t in tensors:
        offsets = [position, position + t.size]
        header[t.name] = {'dtype': NAMES[t.dtype], 'shape': t.shape, 'data_offsets': offsets}
        position += t.size
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)  # the data begin at a multiple of 8 bytes
    with whole_file(path) as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for t in tensors:
            t.write(file)


def _header(path: Path, data: np.ndarray) -> tuple[dict[str, Any], int]:
    """The header and the byte at which the data begin."""
    length = int.from_bytes(data[:8].tobytes(), 'little') if data.size >= 8 else data.size
    if data.size < 8 or length > min(JSON_MAX, data.size - 8):
        raise ValueError(
            f'{path} is not a complete safetensors file: its header would end at byte {8 + length} '
            f'of {data.size}. Download or copy it again.'
        )
    header = data[8 : 8 + length].tobytes()
    return parse_json(header, f'the header of {path}', 'copy it again', hook=_unique), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError('a name occurs twice')
    return values


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    try:
        dtype, shape, offsets = entry['dtype'], entry['shape'], entry['data_offsets']
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: the header of {name} lacks dtype, shape or data_offsets.'
        ) from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f'{path}: {name} has dtype {dtype!r:.80}, which is not read here.')
    if not natural(shape) or not natural(offsets) or len(offsets) != 2:
        raise ValueError(
            f'{path}: {name} has shape {shape!r:.80} and data_offsets {offsets!r:.80}.'
        )
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(
            f'{path}: {name} of shape {shape} and dtype {dtype} does not fill bytes {begin} to '
            f'{end}.'
        )
    return DTYPES[dtype], tuple(shape), begin, end


def _check_spans(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    """Tensors neither overlap nor leave holes, as the format demands."""
    position, before = 0, 'the header'
    for begin, end, name in [*spans, (size, size, 'the end of the file')]:
        if begin != position:
            what = 'overlaps' if begin < position else 'does not follow'
            raise ValueError(f'{path} is damaged: {name} (byte {begin}) {what} {before}.')
        position, before = end, name
