"""A model of any layout written as a Hugging Face directory, a block of rows at a time."""

from pathlib import Path
from typing import Any

from belle_jax.formats.huggingface.config import architecture_to_hf_config, generation_config
from belle_jax.formats.huggingface.directory import write_json
from belle_jax.formats.protocol import PublishedModel, new_model
from belle_jax.weights import shards
from belle_jax.weights.tensors import DTYPES


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
        target: A directory that does not exist yet, or is empty.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
    Returns:
        The target.
    Raises:
        ValueError: the target is not empty, or a number does not fit the dtype.
        OSError: the disk is full; nothing is left behind.
    """
    if dtype not in ('', *DTYPES) or kind not in shards.STEMS:
        raise ValueError(
            f'--dtype={dtype!r} --format={kind!r}: the dtypes are {", ".join(DTYPES)}, the formats '
            f'{", ".join(shards.STEMS)}.'
        )
    with new_model(model, target, model.planned(dtype)) as (partial, tensors):
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
