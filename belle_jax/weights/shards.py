"""The weight files of a directory, as Hugging Face has them: one file, or several with an index."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from belle_jax.weights import safetensors, torch_files
from belle_jax.weights.tensors import Planned, Stored

STEMS = {'safetensors': 'model', 'bin': 'pytorch_model'}
READERS: dict[str, Callable[[Path], dict[str, Stored]]] = {
    'safetensors': safetensors.read,
    'bin': torch_files.read,
}
WRITERS: dict[str, Callable[[Path, Sequence[Planned]], None]] = {
    'safetensors': safetensors.write,
    'bin': torch_files.write,
}
UNITS = {'': 1, 'K': 10**3, 'M': 10**6, 'G': 10**9, 'KI': 2**10, 'MI': 2**20, 'GI': 2**30}


def find(directory: Path, stems: Mapping[str, str] = STEMS) -> tuple[str, list[Path]]:
    """The weight files of a directory.

    Args:
        directory: Where they lie.
        stems: How the files of each format are called, the preferred format first.
    Returns:
        The format ('safetensors' or 'bin') and the files.
    Raises:
        ValueError: there are none, or the index names one that is not there.
    """
    for kind, stem in stems.items():
        index = directory / f'{stem}.{kind}.index.json'
        if (single := directory / f'{stem}.{kind}').is_file():
            return kind, [single]
        if index.is_file():
            names = sorted(set(_weight_map(index).values()))
            for name in names:
                if Path(name).name != name:
                    raise ValueError(
                        f'{index} names {name!r}: there is no file beside it of that name.'
                    )
                if not (directory / name).is_file():
                    raise ValueError(
                        f'{directory / name} is missing: {index.name} lists it among {len(names)} '
                        'shards. Complete the download.'
                    )
            return kind, [directory / name for name in names]
    files = ' or '.join(f'{stem}.{kind}' for kind, stem in stems.items())
    raise ValueError(
        f'{directory} holds no weights: no {files}, and no index of shards. Point to a complete '
        'directory.'
    )


def read(
    directory: Path,
    stems: Mapping[str, str] = STEMS,
    readers: Mapping[str, Callable[[Path], dict[str, Stored]]] = READERS,
) -> dict[str, Stored]:
    """All tensors of a directory, mapped, not read.

    Args:
        directory: Where they lie.
        stems: As in `find`.
        readers: What opens a file of each format.
    Raises:
        ValueError: files are missing, damaged, or not those that the index describes.
    """
    kind, files = find(directory, stems)
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, tensor in readers[kind](file).items():
            if name in tensors:
                raise ValueError(f'{tensor.place} is also in {tensors[name].file}.')
            tensors[name] = tensor
    index = directory / f'{stems[kind]}.{kind}.index.json'
    if index.is_file() and len(files) > 1:
        for name, file in _weight_map(index).items():
            if name not in tensors or tensors[name].file.name != file:
                raise ValueError(
                    f'{name} is missing from {directory / file}, where {index.name} has it.'
                )
    return tensors


def write(directory: Path, tensors: Sequence[Planned], kind: str, max_shard_size: int) -> None:
    """Writes weight files, and an index where they are several.

    Args:
        directory: An existing directory.
        tensors: All tensors, in order.
        kind: 'safetensors' or 'bin'.
        max_shard_size: Bytes of tensors in a file; a larger tensor gets a file of its own.
    """
    groups, stem = plan(tensors, max_shard_size), STEMS[kind]
    if len(groups) == 1:
        WRITERS[kind](directory / f'{stem}.{kind}', groups[0])
        return
    weight_map = {}
    for i, group in enumerate(groups):
        name = f'{stem}-{i + 1:05d}-of-{len(groups):05d}.{kind}'
        WRITERS[kind](directory / name, group)
        weight_map |= {t.name: name for t in group}
    index = {'metadata': {'total_size': sum(t.size for t in tensors)}, 'weight_map': weight_map}
    (directory / f'{stem}.{kind}.index.json').write_text(json.dumps(index, indent=2) + '\n')


def plan(tensors: Sequence[Planned], max_shard_size: int) -> list[list[Planned]]:
    """Which tensors go into which file: in order, each file filled up to the limit."""
    groups: list[list[Planned]] = [[]]
    room = max_shard_size
    for t in tensors:
        if t.size > room and groups[-1]:
            groups.append([])
            room = max_shard_size
        groups[-1].append(t)
        room -= t.size
    return groups


def parse_size(text: str) -> int:
    """'5GB' -> 5,000,000,000; 'MiB' and its like are powers of two.

    Raises:
        ValueError: it is not a size.
    """
    found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMG]?I?)B?', text.strip().upper())
    if not found or found[2] not in UNITS or float(found[1]) <= 0:
        raise ValueError(f'--max_shard_size={text!r} is not a size: write 5GB, 500MB or 2GiB.')
    return int(float(found[1]) * UNITS[found[2]])


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text('utf-8'))['weight_map']
        if all(isinstance(v, str) for v in weight_map.values()):
            return weight_map
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{index} is not an index of shards ({error!r}).') from error
    raise ValueError(f'{index} names a shard that is not text. Download it again.')
