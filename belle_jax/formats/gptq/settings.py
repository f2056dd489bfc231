"""What a directory says of how its model is quantised."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NoReturn

from belle_jax.families.packing import BITS
from belle_jax.json_files import read_json

CONFIG, OWN_CONFIG = 'config.json', 'quantize_config.json'
KEY = 'quantization_config'
VERSIONS = {'gptq': 1, 'gptq_v2': 2}
WRITER = re.compile(r'gptqmodel:(\d+)')


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """How the tensors of files are to be read.

    Attributes:
        bits: Of the codes of layers; None: their shapes say.
        group_size: 0: one group; None: the shapes say.
        version: 1 where zeros are stored as z - 1, 2 where as they are.
        whole_words: Whether GPTQModel wrote the zeros.
        compressed: Whether names and layouts are those of compressed-tensors.
    """

    bits: int | None = None
    group_size: int | None = None
    version: int = 1
    whole_words: bool = False
    compressed: bool = False


def find(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The settings of a quantised model and the file that has them; None: there are none."""
    path, own = directory / CONFIG, directory / OWN_CONFIG
    values = (read_json(path).get(KEY) or None) if path.is_file() else None
    if values is None and own.is_file():
        # AutoGPTQ's of before transformers knew of it; other methods have other files.
        path, values = own, {'quant_method': 'gptq'} | read_json(own)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ValueError(f'{path}: {KEY} must be an object with named settings.')
    return path, values


def read(directory: Path) -> FileSettings:
    """The settings of a directory; what is not read here is a ValueError that names it."""
    path, values = find(directory) or (directory / CONFIG, {})
    try:
        method = values.get('quant_method', values.get('method'))
        if method == 'compressed-tensors':
            return _compressed(values)
        if method != 'gptq':
            _refuse('quant_method', method, 'gptq and compressed-tensors are')
        return _gptq(values)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


def _gptq(values: dict[str, Any]) -> FileSettings:
    layout = values.get('checkpoint_format', values.get('format', 'gptq'))
    if not isinstance(layout, str) or layout not in VERSIONS:
        _refuse('checkpoint_format', layout, f'{" and ".join(VERSIONS)} are')
    if (words := values.get('pack_dtype', 'int32')) != 'int32':
        _refuse('pack_dtype', words, 'only int32 is')
    if values.get('is_marlin_format'):
        _refuse('is_marlin_format', True, 'only weights that are not reordered are')
    bits = values.get('bits')
    if type(bits) is not int or bits not in BITS:
        _refuse('bits', bits, f'{", ".join(map(str, BITS))} are')
    meta = values.get('meta')
    writers = meta.get('quantizer') if isinstance(meta, dict) else None
    found = [WRITER.match(str(w)) for w in (writers if isinstance(writers, list) else [writers])]
    return FileSettings(
        bits=bits,
        group_size=_group_size(values.get('group_size', -1)),
        version=VERSIONS[layout],
        whole_words=any(found),
    )


def _compressed(values: dict[str, Any]) -> FileSettings:
    if (layout := values.get('format')) != 'pack-quantized':
        _refuse('format', layout, 'only pack-quantized is')
    groups, sizes = values.get('config_groups'), set()
    for group in groups.values() if isinstance(groups, dict) else [groups]:
        group = group if isinstance(group, dict) else {}
        if not isinstance(weights := group.get('weights'), dict):
            _refuse('config_groups', groups, 'objects with weights are')
        if group.get('input_activations') or group.get('output_activations'):
            _refuse('input_activations', group.get('input_activations'), 'only weights are')
        if weights.get('type', 'int') != 'int' or weights.get('num_bits') not in BITS:
            _refuse('weights', weights, f'whole numbers of {", ".join(map(str, BITS))} bits are')
        if weights.get('strategy') not in ('group', 'channel'):
            _refuse('strategy', weights.get('strategy'), 'group and channel are')
        size = weights.get('group_size') if weights['strategy'] == 'group' else -1
        sizes.add(_group_size(size))
    if len(sizes) != 1:
        _refuse('config_groups', groups, 'groups of one size are')
    if values.get('kv_cache_scheme'):
        _refuse('kv_cache_scheme', values['kv_cache_scheme'], 'only weights are')
    return FileSettings(group_size=sizes.pop(), version=2, compressed=True)


def _group_size(value: Any) -> int:
    if type(value) is not int or (value < 1 and value != -1):
        _refuse('group_size', value, 'whole numbers from 1 are, and -1 for one group')
    return max(value, 0)


def _refuse(name: str, value: Any, known: str) -> NoReturn:
    raise ValueError(f'{name}={json.dumps(value):.80} is not read here: {known}.')
