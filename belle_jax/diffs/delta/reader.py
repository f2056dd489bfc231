"""Opening a delta that comes from somebody else: every field is checked before it is used."""

from pathlib import Path
from typing import Any

from belle_jax.diffs.delta.format import (
    FORMAT,
    MAX_BLOCK,
    NAME,
    VERSION,
    Base,
    Data,
    Delta,
    Entry,
    comparable,
    digest,
    is_carried,
)
from belle_jax.formats import huggingface
from belle_jax.weights import safetensors


def read(directory: Path) -> Delta:
    """Opens a delta; reads its manifest alone.

    Args:
        directory: What `Writer` filled.
    Raises:
        ValueError: it is none, is damaged or truncated; what is wrong with it is named.
    """
    path = directory / NAME
    if not path.is_file():
        raise ValueError(
            f'{directory} is no delta: {NAME} is missing, which is written when all the rest is '
            'there. Complete the download.'
        )
    values = huggingface.read_json(path)
    if values.get('format') != FORMAT or values.get('version') != VERSION:
        raise ValueError(
            f'{path} has format {values.get("format")!r} and version {values.get("version")!r}: '
            f'{FORMAT!r} of version {VERSION} is read here.'
        )
    expected = values.pop('sha256', None)
    if digest(values) != expected:
        raise ValueError(f'{path} is damaged: its contents have another SHA-256. Get it again.')
    try:
        delta = _parse(directory, values)
        for data in delta.data:
            _check_size(data)
        delta.blocks()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f'{path} is damaged: {_sentence(error)}. Get the delta again.') from error
    return delta


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f'a field is amiss ({error!r})'


def _check_size(data: Data) -> None:
    if not data.path.is_file():
        raise ValueError(f'{data.path.name}, which it lists, is missing')
    if (size := data.path.stat().st_size) != data.size:
        raise ValueError(f'{data.path.name} has {size} bytes instead of {data.size}')


def _parse(directory: Path, values: dict[str, Any]) -> Delta:
    block = _natural(values['block'])
    if not 0 < block <= MAX_BLOCK or block % 8:
        raise ValueError(f'blocks of {block} bytes')
    data = tuple(
        Data(directory / _plain(d['name']), _natural(d['size']), _text(d['sha256']))
        for d in values['data']
    )
    tensors = tuple(
        Entry(
            _text(t['name']),
            _dtype(t['dtype']),
            _naturals(t['shape']),
            _text(t['sha256']),
            _base(t['base']),
            _naturals(t['blocks']),
        )
        for t in values['tensors']
    )
    files = tuple(
        Entry(
            _text(f['name']),
            'U8',
            (_natural(f['size']),),
            _text(f['sha256']),
            None,
            None if f['blocks'] is None else _naturals(f['blocks']),
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
    return Delta(directory, _text(values['base']), block, tensors, files, data)


def _base(values: Any) -> Base | None:
    if values is None:
        return None
    return Base(
        _text(values['name']),
        _dtype(values['dtype']),
        _naturals(values['shape']),
        _text(values['sha256']),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f'{value!r} is no text')
    return value


def _plain(value: Any) -> str:
    if Path(_text(value)).name != value:
        raise ValueError(f'{value!r} is no file beside it')
    return value


def _natural(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f'{value!r} is no natural number')
    return value


def _naturals(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise ValueError(f'{values!r} is no list')
    return tuple(map(_natural, values))


def _dtype(value: Any) -> str:
    if value not in safetensors.DTYPES:
        raise ValueError(f'the dtype {value!r} is not known')
    return value
