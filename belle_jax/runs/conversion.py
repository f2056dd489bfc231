"""A run made of a published model, and a published model made of a run.

`RUN/source/` keeps, so that an export can give them back, the published `config.json`,
`generation_config.json`, model card and licence as they were, and `origin.json`: where they came
from and in which dtypes. `RUN/tokenizer/` holds the tokenizer's files. An export is read from the
checkpoint a row block at a time.
"""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax import config, families
from belle_jax.data import template_export, templates, tokenizer
from belle_jax.families import TensorMap
from belle_jax.files import new_directory, require_new, whole_directory
from belle_jax.formats import huggingface, peft
from belle_jax.formats.protocol import PublishedModel
from belle_jax.json_files import read_json, write_json
from belle_jax.runs import model_card, run_directory
from belle_jax.runs.load import open_whole
from belle_jax.runs.parameters import Parameters, Saved, place
from belle_jax.weights import shards
from belle_jax.weights.tensors import DTYPES, Index, Planned, common_dtype, in_dtype, proven

BLOCK = 128 * 2**20  # bytes of a row block, as stored
MAX_BLOCK = 512 * 2**20  # where whole chunks of the checkpoint ask for more


# --- a run, with nothing trained yet --------------------------------------------------------------


def from_published(
    source: str,
    target: Path,
    dtype: str = 'float32',
    template: str = '',
    ignore_crc: bool = False,
) -> Path:
    """Writes a run directory with the parameters of a published model.

    Args:
        source: Hugging Face directory or hub name.
        target: Run directory; new, or empty; it is returned.
        dtype: Of the checkpoint, or 'source'.
        template: Name of the chat template that the run's configuration gets.
        ignore_crc: Whether `.bin` files whose checksums are wrong are taken.
    Raises:
        ValueError: the source is incomplete or not supported, or the target is not empty.
        OSError: the disk is full; nothing is left behind.
    """
    import jax

    from belle_jax.runs.checkpoints import Checkpoints

    require_new(target)
    published = huggingface.open(source, ignore_crc=ignore_crc)
    dtype = '' if dtype == 'source' else dtype
    size = sum(
        math.prod(shape) * (DTYPES[dtype] if dtype else published.dtype_of(name)).itemsize
        for name, shape in published.shapes.items()
    )
    with new_directory(target, size) as partial, proven(published.stored):
        keep_origin(published.directory, partial, name=source)
        if not template and (words := partial / run_directory.TOKENIZER).is_dir():
            template = 'tokenizer' if tokenizer.load(words).chat_template else 'none'
        if template and template not in templates.NAMES:
            known = ', '.join(templates.NAMES)
            raise ValueError(f'--template={template!r} is not known: {known} are.')
        everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params = place(published, dict.fromkeys(published.shapes, everywhere), dtype)
        largest = max(a.nbytes for a in params.values())
        folder = partial / run_directory.CHECKPOINTS
        checkpoints = Checkpoints(folder, concurrent_bytes=largest + 2**26)
        checkpoints.save(0, params, {}, {'optimiser': False})
        checkpoints.close()
        model = config.Model(source=source, architecture=published.architecture)
        run = config.Run(model=model, data=config.Data(template=template or 'none'))
        config.save(run, partial / run_directory.CONFIG)
    return target


def keep_origin(source: str | Path, run: Path, name: str = '') -> None:
    """Copies a source's small files into a run directory; each folder appears when it is whole.

    Args:
        source: A Hugging Face directory, a hub name, a run directory or a checkpoint.
        run: The run directory; its `tokenizer/` is left alone if it is there already.
        name: What `origin.json` calls the source; the source itself by default.
    """
    path = huggingface.resolve(source)
    words, before = path, None
    if run_directory.is_run_directory(path):
        before = run_directory.root(path)
        words = before / run_directory.TOKENIZER
    with whole_directory(run / run_directory.SOURCE) as partial:
        if before is None:
            huggingface.copy(path, partial, huggingface.SETTINGS_FILES + huggingface.LICENCE_FILES)
            # Beside an adapter the source may be quantised, and has whole numbers as well.
            stored = {n: t for n, t in shards.read(path).items() if t.array.dtype.kind not in 'iu'}
            dtype = common_dtype({t.place: t.array.dtype for t in stored.values()})
            values: dict[str, Any] = {'source': name or str(source), 'dtype': dtype}
            # The commit of a hub download, which its cache has in the path.
            values['revision'] = path.name if path.parent.name == 'snapshots' else None
            kept = {name: tensor.array.dtype.name for name, tensor in stored.items()}
            if others := {n: k for n, k in kept.items() if k in DTYPES and k != dtype}:
                values['other_dtypes'] = others
            write_json(partial / run_directory.ORIGIN, values)
        elif (before / run_directory.SOURCE).is_dir():
            shutil.copytree(before / run_directory.SOURCE, partial, dirs_exist_ok=True)
    target = run / run_directory.TOKENIZER
    if target.is_dir():
        return
    if (words / 'vocab.json').is_file() and not (words / 'tokenizer.json').is_file():
        tokenizer.load(words).save(target)  # these files alone do not say how words are split
        return
    with whole_directory(target) as partial:
        huggingface.copy(words, partial, tokenizer.FILES)


# --- an export ------------------------------------------------------------------------------------


def to_huggingface(
    source: str | Path,
    target: str | Path,
    dtype: str = '',
    max_shard_size: int = 5 * 10**9,
    kind: str = 'safetensors',
    merge: bool = False,
) -> Path:
    """Writes the model of a run as a Hugging Face directory; of an adapter, as PEFT has it.

    Neither a device nor the whole model in memory is needed: the peak is a few row blocks. The
    directory appears when it is complete.

    Args:
        source: A run directory, of which the newest good checkpoint is taken, or a checkpoint.
        target: A directory that does not exist yet, or is empty; it is returned.
        dtype: 'float32', 'bfloat16' or 'float16'; '' is for each tensor that of the published
            weights which the run began with, float32 if there were none.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
        merge: Whether an adapter is added to the weights of its base instead.
    Raises:
        ValueError: the source is damaged, the target is not empty, a number does not fit the dtype.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    checkpoint = run_directory.open_checkpoint(source)
    origin = run_directory.read_origin(checkpoint.run)
    most = dtype or origin.get('dtype', 'float32')
    if checkpoint.base and not merge:
        tell_of_base(checkpoint.base)
        return peft.write(
            Saved(checkpoint),
            checkpoint.architecture,
            Path(target),
            checkpoint.base,
            lambda partial: _carry(checkpoint, partial, 'float32', adapter=True),
        )
    model = as_published(checkpoint, most)
    if not dtype:
        # Published tensors may lack the family's prefix.
        prefix, others = families.of(model.architecture).prefix, origin.get('other_dtypes', {})
        kept = {n: others.get(n) or others.get(n.removeprefix(prefix), most) for n in model.tensors}
        tensors = {t.name: in_dtype(t, DTYPES[kept[t.name]]) for t in model.planned()}
        model = dataclasses.replace(model, tensors=tensors, dtype=most)
    return huggingface.write(model, target, dtype, max_shard_size, kind)


def tell_of_base(base: str) -> None:
    """Says where an adapter's base is nothing that PEFT can load."""
    if run_directory.is_run_directory(huggingface.resolve(base)):
        print(
            f'The base {base} is a run directory, which PEFT does not read: convert it with '
            'belle-jax convert to_hf, and write its place into adapter_config.json.'
        )


def as_published(checkpoint: run_directory.Checkpoint, dtype: str) -> PublishedModel:
    """A checkpoint as any layout can write it, with a card that names a dtype."""
    saved = open_whole(checkpoint)
    order = families.in_published_order(saved.architecture)
    tensors = [planned(saved, entry, layer) for entry, layer in order]
    return PublishedModel(
        directory=checkpoint.run,
        architecture=saved.architecture,
        tensors={tensor.name: tensor for tensor in tensors},
        dtype=saved.dtype,
        carry=lambda target: _carry(checkpoint, target, dtype),
        config=_config(checkpoint),
        notes=[f'A newer checkpoint is passed over: {reason}' for reason in checkpoint.rejected],
    )


def planned(saved: Parameters, entry: TensorMap, layer: int) -> Planned:
    """One published tensor, to be written a row block at a time.

    Args:
        saved: Where our parameter is read.
        entry: Which one it is.
        layer: Which of `entry.their_names`.
    """
    name = entry.their_names[layer]

    def read(index: Index) -> np.ndarray:
        return saved.read(entry.ours, index, saved.dtype_of(entry.ours))

    def blocks() -> Iterator[np.ndarray]:
        rows = _rows(saved, entry)
        for start in range(0, entry.fold[0], rows):
            stop = min(start + rows, entry.fold[0])
            yield entry.give(read, layer, start, stop)

    return Planned(name, entry.their_shape, saved.dtype_of(entry.ours), blocks)


def _rows(saved: Any, entry: TensorMap) -> int:
    """Rows of a block: whole chunks where possible, for a chunk is always read as a whole."""
    row = int(np.prod(entry.fold[1:])) * saved.dtype_of(entry.ours).itemsize
    axis = entry.order.index(0) + (1 if entry.layers else 0)
    chunk = saved.chunk(entry.ours)[axis] if isinstance(saved, Saved) else 1
    rows = max(1, BLOCK // row)
    return max(rows // chunk * chunk, min(chunk, max(1, MAX_BLOCK // row)))


def _carry(
    checkpoint: run_directory.Checkpoint, target: Path, dtype: str, adapter: bool = False
) -> list[str]:
    """Tokenizer, licence and settings for generating as they were, and a model card."""
    run, note, chat = checkpoint.run, 'The run has no tokenizer, so there is none here.', False
    kept = ('generation_config.json', *huggingface.LICENCE_FILES)
    huggingface.copy(run / run_directory.SOURCE, target, kept)
    if (run / run_directory.TOKENIZER).is_dir():
        huggingface.copy(run / run_directory.TOKENIZER, target, tokenizer.FILES)
        note = _write_chat_template(checkpoint, target)
        chat = tokenizer.load(target).chat_template is not None
    card = model_card.write(checkpoint, dtype, note, chat=chat, adapter=adapter)
    (target / 'README.md').write_text(card, 'utf-8')
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
    write_json(path, huggingface.read_settings(path) | {'chat_template': template})
    if (own := target / 'chat_template.jinja').is_file():  # it would win over the other
        own.write_text(template, 'utf-8')
    (target / 'chat_template.json').unlink(missing_ok=True)
    return note
