"""From a checkpoint to a Hugging Face directory, a row block at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.data import template_export, templates, tokenizer
from belle_jax.families import TensorMap
from belle_jax.files import read_json, require_new, write_json
from belle_jax.formats import huggingface
from belle_jax.formats.protocol import PublishedModel
from belle_jax.runs import model_card, origin, run_directory
from belle_jax.runs.saved import Saved
from belle_jax.weights.tensors import Planned

BLOCK = 128 * 2**20  # bytes of a row block, as stored
MAX_BLOCK = 512 * 2**20  # where whole chunks of the checkpoint ask for more


def to_huggingface(
    source: str | Path,
    target: str | Path,
    dtype: str = '',
    max_shard_size: int = 5 * 10**9,
    kind: str = 'safetensors',
) -> Path:
    """Writes the model of a run as a Hugging Face directory.

    Neither a device nor the whole model in memory is needed: the peak is a few row blocks. The
    directory appears when it is complete.

    Args:
        source: A run directory, of which the newest good checkpoint is taken, or a checkpoint.
        target: A directory that does not exist yet, or is empty.
        dtype: 'float32', 'bfloat16' or 'float16'; '' is that of the published weights which the run
            began with, float32 if there were none.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
    Returns:
        The target.
    Raises:
        ValueError: the source is damaged, the target is not empty, a number does not fit the dtype.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    checkpoint = run_directory.open_checkpoint(source)
    dtype = dtype or origin.read(checkpoint.run).get('dtype', 'float32')
    return huggingface.write(as_published(checkpoint, dtype), target, dtype, max_shard_size, kind)


def as_published(checkpoint: run_directory.Checkpoint, dtype: str) -> PublishedModel:
    """A checkpoint as any layout can write it.

    Args:
        checkpoint: Of a run.
        dtype: In which it will be written, as its model card says.
    """
    saved = Saved(checkpoint)
    entries = families.tensor_maps(saved.architecture)
    stacked = [i for i, e in enumerate(entries) if e.layers]
    first, last = stacked[0], stacked[-1] + 1
    order = [(e, 0) for e in entries[:first]]
    order += [(e, i) for i in range(saved.architecture.layers) for e in entries[first:last]]
    order += [(e, 0) for e in entries[last:]]
    tensors = [_planned(saved, entry, layer) for entry, layer in order]
    return PublishedModel(
        directory=checkpoint.run,
        architecture=saved.architecture,
        tensors={tensor.name: tensor for tensor in tensors},
        dtype=saved.dtype,
        carry=lambda target: _carry(checkpoint, target, dtype),
        config=_config(checkpoint),
        notes=[f'A newer checkpoint is passed over: {reason}' for reason in checkpoint.rejected],
    )


def _planned(saved: Saved, entry: TensorMap, layer: int) -> Planned:
    name = entry.their_names[layer]

    def blocks() -> Iterator[np.ndarray]:
        rows = _rows(saved, entry)
        for start in range(0, entry.fold[0], rows):
            stop = min(start + rows, entry.fold[0])
            yield entry.give(lambda index: saved.read(entry.ours, index), layer, start, stop)

    return Planned(name, entry.their_shape, saved.dtype_of(entry.ours), blocks)


def _rows(saved: Saved, entry: TensorMap) -> int:
    """Rows of a block: whole chunks where possible, for a chunk is always read as a whole."""
    row = int(np.prod(entry.fold[1:])) * saved.dtype_of(entry.ours).itemsize
    axis = entry.order.index(0) + (1 if entry.layers else 0)
    chunk = saved.chunk(entry.ours)[axis]
    rows = max(1, BLOCK // row)
    return max(rows // chunk * chunk, min(chunk, max(1, MAX_BLOCK // row)))


# --- the small files ---


def _carry(checkpoint: run_directory.Checkpoint, target: Path, dtype: str) -> list[str]:
    """Tokenizer, licence and settings for generating as they were, and a model card."""
    run, note = checkpoint.run, 'The run has no tokenizer, so there is none here.'
    kept = ('generation_config.json', *huggingface.LICENCE_FILES)
    huggingface.copy(run / run_directory.SOURCE, target, kept)
    if (run / run_directory.TOKENIZER).is_dir():
        huggingface.copy(run / run_directory.TOKENIZER, target, tokenizer.FILES)
        note = _write_chat_template(checkpoint, target)
    (target / 'README.md').write_text(model_card.write(checkpoint, dtype, note), 'utf-8')
    return []


def _config(checkpoint: run_directory.Checkpoint) -> dict[str, Any] | None:
    """The published configuration, where it still describes the model."""
    path = checkpoint.run / run_directory.SOURCE / 'config.json'
    if not path.is_file() or huggingface.read_architecture(path.parent) != checkpoint.architecture:
        return None
    return read_json(path)


def _write_chat_template(checkpoint: run_directory.Checkpoint, target: Path) -> str:
    """Puts the run's template where transformers looks for it, unless it is the tokenizer's own."""
    name = checkpoint.config.get('data', {}).get('template', 'tokenizer')
    if name == 'tokenizer':
        return "The chat template is the tokenizer's own."
    template, note = template_export.export(templates.Template(name, tokenizer.load(target)))
    if template is None:
        return note
    path = target / 'tokenizer_config.json'
    settings = read_json(path) if path.is_file() else {}
    write_json(path, settings | {'chat_template': template})
    if (own := target / 'chat_template.jinja').is_file():  # it would win over the other
        own.write_text(template, 'utf-8')
    (target / 'chat_template.json').unlink(missing_ok=True)
    return note
