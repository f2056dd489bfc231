"""The weight files of a directory, as Hugging Face has them: one file, or several with an index."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from belle_jax.families import HEAD
from belle_jax.json_files import read_json
from belle_jax.weights import safetensors, torch_files
from belle_jax.weights.tensors import Planned, Stored


class FileFormat(NamedTuple):
    """A format of weight files; its name is their suffix."""

    stem: str  # how a single file is called
    read: Callable[[Path], dict[str, Stored]]
    write: Callable[[Path, Sequence[Planned]], None]


KINDS = {  # the preferred one first
    'safetensors': FileFormat('model', safetensors.read, safetensors.write),
    'bin': FileFormat('pytorch_model', torch_files.read, torch_files.write),
}
UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'G': 10**9, 'KI': 2**10, 'MI': 2**20, 'GI': 2**30}


def find(directory: Path, kinds: Mapping[str, FileFormat] = KINDS) -> tuple[str, list[Path]]:
    """The weight files of a directory.

    Returns:
        The format, the preferred one of those that are there ('safetensors', 'bin'), and the files.
    Raises:
        ValueError: there are none, or the index names one that is not there.
    """
    for name, kind in kinds.items():
        single, index = directory / f'{kind.stem}.{name}', _index(directory, name, kind)
        if single.is_file():
            return name, [single]
        if index.is_file():
            files = sorted(set(_weight_map(index).values()))
            for file in files:
                if Path(file).name != file:
                    raise ValueError(
                        f'{index} names {file!r}: there is no file beside it of that name.'
                    )
                if not (directory / file).is_file():
                    raise ValueError(
                        f'{directory / file} is missing: {index.name} lists it among {len(files)} '
                        'shards. Complete the download.'
                    )
            return name, [directory / file for file in files]
    singles = ' or '.join(f'{kind.stem}.{name}' for name, kind in kinds.items())
    raise ValueError(
        f'{directory} holds no weights: no {singles}, and no index of shards. Point to a complete '
        'directory.'
    )


def read(directory: Path, kinds: Mapping[str, FileFormat] = KINDS) -> dict[str, Stored]:
    """All tensors of a directory, mapped, not read; what its files and index do not agree on, or
    what is damaged, is a ValueError.
    """
    kind, files = find(directory, kinds)
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, tensor in kinds[kind].read(file).items():
            if name in tensors:
                raise ValueError(f'{tensor.place} is also in {tensors[name].file}.')
            tensors[name] = tensor
    if not tensors:
        raise ValueError(f'{files[0]} holds no tensors: take the weights of this model.')
    index = _index(directory, kind, kinds[kind])
    if index.is_file() and len(files) > 1:
        for name, shard in _weight_map(index).items():
            if name == HEAD and name not in tensors:
                continue  # a tied model rightly lacks it; `match` tells where that is wrong
            if name not in tensors or tensors[name].file.name != shard:
                raise ValueError(
                    f'{name} is missing from {directory / shard}, where {index.name} has it.'
                )
    return tensors


def write(directory: Path, tensors: Sequence[Planned], kind: str, max_shard_size: int) -> None:
    """Writes weight files, and an index where they are several.

    Args:
        directory: An existing directory.
        tensors: All tensors, in order.
        kind: 'safetensors' or 'bin'.
        max_shard_size: Bytes of tensors in a file, filled in order; a larger one gets its own.
    """
    groups: list[list[Planned]] = [[]]
    room = max_shard_size
    for t in tensors:
        if t.size > room and groups[-1]:
            groups.append([])
            room = max_shard_size
        groups[-1].append(t)
        room -= t.size
    stem, _, write_file = KINDS[kind]
    if len(groups) == 1:
        write_file(directory / f'{stem}.{kind}', groups[0])
        return
    weight_map = {}
    for i, group in enumerate(groups, 1):
        name = f'{stem}-{i:05d}-of-{len(groups):05d}.{kind}'
        write_file(directory / name, group)
        weight_map |= {t.name: name for t in group}
    index = {'metadata': {'total_size': sum(t.size for t in tensors)}, 'weight_map': weight_map}
    _index(directory, kind, KINDS[kind]).write_text(json.dumps(index, indent=2) + '\n')


def parse_size(text: str) -> int:
    """'5GB' -> 5,000,000,000; 'MiB' are powers of two; what is not a size is a ValueError."""
    found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMG]?I?)B?', text.strip().upper())
    if not found or found[2] not in UNITS or float(found[1]) <= 0:
        raise ValueError(f'--max_shard_size={text!r} is not a size: write 5GB, 500MB or 2GiB.')
    return int(float(found[1]) * UNITS[found[2]])


def _index(directory: Path, name: str, kind: FileFormat) -> Path:
    return directory / f'{kind.stem}.{name}.index.json'


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get('weight_map')
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f'{index} is not an index of shards: it has no weight_map. Copy it again.')
    if not all(isinstance(v, str) for v in weight_map.values()):
        raise ValueError(f'{index} names a shard that is not text. Download it again.')
    return weight_map
