"""Hugging Face's directories, which every other layout is converted from and to.

Configurations have been written for four years by many programs; both the old keys and those of
transformers 5 are read and written. A setting that changes the arithmetic and is not known here is
refused by name.
"""

import functools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from belle_jax import families, storage
from belle_jax.data import tokenizer
from belle_jax.families import FAMILIES, Architecture
from belle_jax.families.published import PublishedConfig
from belle_jax.files import without_dots
from belle_jax.formats.protocol import PublishedModel, match, new_model
from belle_jax.json_files import read_json, write_json
from belle_jax.weights import shards
from belle_jax.weights.tensors import DTYPES, common_dtype

SETTINGS_FILES = ('config.json', 'generation_config.json', 'README.md')
HUB_FILES = ('*.json', '*.txt', '*.model', '*.jinja', '*.md', 'LICENSE*', 'NOTICE*')
LICENCE_FILES = ('LICENSE', 'LICENSE.txt', 'LICENSE.md', 'NOTICE', 'USE_POLICY.md')
CARRIED = (*SETTINGS_FILES[1:], *LICENCE_FILES, *tokenizer.FILES)


def open(
    directory: str | Path, architecture: Architecture | None = None, ignore_crc: bool = False
) -> PublishedModel:
    """Opens a directory and checks every tensor's name and shape before a number is read.

    Args:
        directory: The directory, or a hub name.
        architecture: The model; by default what its `config.json` means.
        ignore_crc: Whether a conversion takes `.bin` files whose checksums are wrong.
    Raises:
        ValueError: a file or tensor is missing, damaged, of another shape, or left over.
    """
    path = resolve(directory)
    architecture = architecture or read_architecture(path)
    tensors = match(architecture, shards.read(path))
    return PublishedModel(
        directory=path,
        architecture=architecture,
        tensors=tensors,
        dtype=common_dtype({t.place: t.array.dtype for t in tensors.values()}),
        carry=functools.partial(carry, path),
        config=read_json(config) if (config := path / 'config.json').is_file() else None,
        stored=() if ignore_crc else tuple(tensors.values()),
    )


def carry(source: Path, target: Path) -> list[str]:
    """The `carry` of a `PublishedModel` whose small files lie in `source` as they are to be."""
    copy(source, target, CARRIED)
    return []


def write(
    model: PublishedModel,
    target: str | Path,
    dtype: str = '',
    max_shard_size: int = 5 * 10**9,
    kind: str = 'safetensors',
) -> Path:
    """Writes a model; the directory appears when it is complete.

    Args:
        model: Open in whatever layout.
        target: A new directory, or an empty one; returned when it is complete.
        dtype: As in `protocol.new_model`.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
    Raises:
        ValueError: the dtype or kind is not known, or as in `protocol.new_model`.
    """
    if dtype not in ('', *DTYPES) or kind not in shards.KINDS:
        raise ValueError(
            f'--dtype={dtype!r} --format={kind!r}: the dtypes are {", ".join(DTYPES)}, the formats '
            f'{", ".join(shards.KINDS)}.'
        )
    if model.packing:
        raise ValueError(
            f'{model.directory} is quantised, and its weights are no longer there. Convert the '
            'model that it was made from.'
        )
    with new_model(model, target, model.planned(), dtype) as (partial, tensors):
        shards.write(partial, tensors, kind, max_shard_size)
        write_json(partial / 'config.json', _config(model, dtype or model.dtype))
        notes = model.carry(partial)
        if not (path := partial / 'generation_config.json').is_file():
            write_json(path, generation_config(model.architecture))
    for note in notes:
        print(note)
    return Path(target)


def _config(model: PublishedModel, dtype: str) -> dict[str, Any]:
    """The published configuration where there is one, with the new dtype."""
    if model.config is None:
        return architecture_to_hf_config(model.architecture, dtype)
    keys = [k for k in ('dtype', 'torch_dtype') if k in model.config] or ['dtype', 'torch_dtype']
    return {**model.config} | dict.fromkeys(keys, dtype)


# --- the directory --------------------------------------------------------------------------------


def resolve(name: str | Path) -> Path:
    """A local directory from a path or a hub name such as BelleGroup/BELLE-7B-2M.

    Args:
        name: A directory, here or on an object store; or a model's name on the hub, which is
            downloaded to the hub's cache: its configuration, tokenizer and weights (safetensors
            where it has them), no code.
    Raises:
        ValueError: there is no such directory, and no such name on the hub or no way to it.
    """
    path = storage.local(name).expanduser()
    if path.exists():
        return without_dots(path)
    if not re.fullmatch(r'[\w.-]+/[\w.-]+', str(name)):
        raise ValueError(f'{name} is neither a directory here nor a hub name such as OWNER/MODEL.')
    import huggingface_hub

    try:
        files = huggingface_hub.HfApi().list_repo_files(str(name))
        safe = any(f.endswith('.safetensors') for f in files)
        patterns = [*HUB_FILES, '*.safetensors' if safe else 'pytorch_model*.bin']
        return Path(huggingface_hub.snapshot_download(str(name), allow_patterns=patterns))
    except Exception as error:  # each version's HTTP library has classes of its own
        try:
            return Path(huggingface_hub.snapshot_download(str(name), local_files_only=True))
        except Exception:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise ValueError(
                f"{name} is not a directory here, is not in the hub's cache, and the hub did not "
                f'give it ({reason}). Give the path of a directory, or make the hub reachable.'
            ) from error


def copy(source: Path, target: Path, names: tuple[str, ...]) -> list[str]:
    """Copies those of the named files that exist, as they are; returns their names."""
    present = [name for name in names if (source / name).is_file()]
    if present:
        target.mkdir(parents=True, exist_ok=True)
    for name in present:
        shutil.copyfile(source / name, target / name)
    return present


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object from a file; an empty one where there is no file."""
    return read_json(path) if path.is_file() else {}


# --- configurations -------------------------------------------------------------------------------


def read_architecture(directory: str | Path, without: Sequence[str] = ()) -> Architecture:
    """Which model the `config.json` of a directory or hub name means.

    Args:
        directory: The directory, or a hub name.
        without: Settings that are left aside, as the caller reads them.
    Raises:
        ValueError: the configuration asks for something that is not built here; the field is named.
    """
    path = resolve(directory) / 'config.json'
    config = {name: value for name, value in read_json(path).items() if name not in without}
    try:
        generation = read_settings(path.with_name('generation_config.json'))
        return architecture_from_config(config, generation)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path}: {error}') from error


def architecture_from_config(
    config: dict[str, Any], generation: dict[str, Any] | None = None
) -> Architecture:
    """The model that a `config.json` means.

    Args:
        config: Its values.
        generation: Those of `generation_config.json`, whose ends of sequence win, as in `generate`.
    """
    name = config.get('model_type')
    if name not in list(FAMILIES):
        known = ' and '.join(FAMILIES)
        raise ValueError(f'model_type={name!r} is not supported: only {known} are.')
    if quantised := config.get('quantization_config'):
        method = quantised.get('quant_method') if isinstance(quantised, dict) else quantised
        raise ValueError(
            f'quantization_config ({method}): a quantised model is run as it is, and neither '
            'trained nor converted. Take the model that it was made from.'
        )
    ends = (generation or {}).get('eos_token_id', config.get('eos_token_id', 2))
    ids = [_token('eos_token_id', one) for one in (ends if isinstance(ends, list) else [ends])]
    special = {
        'bos_id': _token('bos_token_id', config.get('bos_token_id', 1)),
        'eos_ids': tuple(index for index in ids if index is not None),
        'pad_id': _token('pad_token_id', config.get('pad_token_id')),
    }
    return FAMILIES[name].from_config(PublishedConfig(config), special)


def _token(name: str, value: Any) -> int | None:
    """LLaMA-1's first conversions write pad_token_id -1 for none."""
    if value is not None and type(value) is not int:
        raise ValueError(f'{name}={value!r} must be the number of a token.')
    if value is not None and value < -1:
        raise ValueError(f'{name}={value}: a token has a number from 0; -1 or null: there is none.')
    return value if value != -1 else None


def architecture_to_hf_config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """A `config.json` that transformers 4 and 5 both read, beside weights of a dtype."""
    a, family = architecture, families.of(architecture)
    config: dict[str, Any] = {
        'architectures': [family.published_class],
        'model_type': family.name,
        'vocab_size': a.vocab_size,
        'hidden_size': a.embed,
        'initializer_range': a.init_std,
        'tie_word_embeddings': a.tied,
        'use_cache': True,
        **_special_tokens(a),
        'dtype': dtype,
        'torch_dtype': dtype,
    }
    return config | family.to_config(a)


def generation_config(architecture: Architecture) -> dict[str, Any]:
    """A `generation_config.json` for a model that came without one."""
    ids = _special_tokens(architecture)
    return {'_from_model_config': True} | {k: v for k, v in ids.items() if v is not None}


def _special_tokens(a: Architecture) -> dict[str, Any]:
    eos = list(a.eos_ids) if len(a.eos_ids) > 1 else next(iter(a.eos_ids), None)
    return {'bos_token_id': a.bos_id, 'eos_token_id': eos, 'pad_token_id': a.pad_id}
