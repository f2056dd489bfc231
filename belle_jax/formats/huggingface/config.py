"""Hugging Face's configurations: which model they mean, and back.

Configurations have been written for four years by many programs; both the old keys and those of
transformers 5 are read and written. A setting that changes the arithmetic and is not known here is
refused by name.
"""

from pathlib import Path
from typing import Any

from belle_jax import families
from belle_jax.families import FAMILIES, Architecture
from belle_jax.families.published_config import PublishedConfig
from belle_jax.files import read_json
from belle_jax.formats.huggingface.directory import resolve


def read_architecture(directory: str | Path) -> Architecture:
    """Which model a directory's `config.json` means.

    Args:
        directory: A Hugging Face directory or hub name.
    Raises:
        ValueError: the configuration asks for something that is not built here; the field is named.
    """
    path = resolve(directory) / 'config.json'
    config = read_json(path)
    generation = path.with_name('generation_config.json')
    try:
        return architecture_from_config(
            config, read_json(generation) if generation.is_file() else {}
        )
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
    if config.get('quantization_config'):
        method = config['quantization_config'].get('quant_method', 'unnamed')
        raise ValueError(
            f'quantization_config ({method}): quantised weights are not read. Take the original '
            'model.'
        )
    eos = (generation or {}).get('eos_token_id', config.get('eos_token_id', 2))
    special = {
        'bos_id': _token(config.get('bos_token_id', 1)),
        'eos_ids': tuple(eos) if isinstance(eos, list) else (eos,) if eos is not None else (),
        'pad_id': _token(config.get('pad_token_id')),
    }
    return FAMILIES[name].from_config(PublishedConfig(config), special)


def _token(value: Any) -> int | None:
    """LLaMA-1's first conversions write pad_token_id -1 for none."""
    return value if isinstance(value, int) and value >= 0 else None


def architecture_to_hf_config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """A `config.json` that transformers 4 and 5 both read.

    Args:
        architecture: The model.
        dtype: Of the weights beside it.
    """
    a, family = architecture, families.of(architecture)
    config: dict[str, Any] = {
        'architectures': [family.published_class],
        'model_type': family.name,
        'vocab_size': a.vocab_size,
        'hidden_size': a.embed,
        'initializer_range': a.init_std,
        'tie_word_embeddings': a.tied,
        'use_cache': True,
        'bos_token_id': a.bos_id,
        'eos_token_id': _one_or_list(a.eos_ids),
        'pad_token_id': a.pad_id,
        'dtype': dtype,
        'torch_dtype': dtype,
    }
    return config | family.to_config(a)


def generation_config(architecture: Architecture) -> dict[str, Any]:
    """A `generation_config.json` for a model that came without one."""
    ids = {
        'bos_token_id': architecture.bos_id,
        'eos_token_id': _one_or_list(architecture.eos_ids),
        'pad_token_id': architecture.pad_id,
    }
    return {'_from_model_config': True} | {k: v for k, v in ids.items() if v is not None}


def _one_or_list(ids: tuple[int, ...]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else ids[0] if ids else None
