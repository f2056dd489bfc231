"""Meta's LLaMA files to a Hugging Face directory and back, tensor by tensor."""

import dataclasses
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from belle_jax.data import tiktoken_model
from belle_jax.families import Architecture
from belle_jax.files import new_directory, require_new
from belle_jax.formats import huggingface, names
from belle_jax.formats.meta import layout as meta_layout
from belle_jax.formats.meta import params as meta_params
from belle_jax.formats.meta import tokenizer as meta_tokenizer
from belle_jax.formats.meta.files import NAME, Files, tied
from belle_jax.formats.meta.layout import COLUMNS, ROWS
from belle_jax.weights import shards, torch_files
from belle_jax.weights.parameters import common_dtype
from belle_jax.weights.tensors import DTYPES, Stored, in_dtype, shown

LLAMA_3_VOCABULARY = 128_000  # no LLaMA of another tokenizer has as many tokens


def from_meta(
    source: str | Path,
    target: str | Path,
    dtype: str = '',
    max_shard_size: int = 5 * 10**9,
    kind: str = 'safetensors',
    max_position: int = 0,
) -> Path:
    """Writes Meta's LLaMA 1, 2 or 3 as a Hugging Face directory.

    No code in the files is run, and memory holds a few blocks of rows. The directory appears when
    it is complete.

    Args:
        source: A directory of `consolidated.NN.pth`, `params.json` and `tokenizer.model` (which may
            also lie in the directory above).
        target: A directory that does not exist yet, or is empty.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
        max_position: Tokens of context, which Meta's files do not give; 0: as published.
    Returns:
        The target.
    Raises:
        ValueError: a file is missing, damaged or of another model, or the target is not empty.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    source = Path(source)
    params = meta_params.read(source / meta_params.FILE)
    words_file = meta_tokenizer.find(source)
    tokenizer, words = meta_tokenizer.read(words_file, params.scaled)
    files = Files(source, params)
    meta_tokenizer.check_size(words_file, tokenizer, words, files.vocab_size)
    stored = _dtype(tensor for tensors in files.tensors for tensor in tensors.values())
    found = {'vocab_size': files.vocab_size, 'mlp': files.mlp}
    model, reason = meta_params.architecture(params, words, **found, tied=False, dtype=stored)
    remedy = f'Take the {meta_params.FILE} that belongs to {source}, or a download in fewer files.'
    meta_layout.check_divides(model, len(files.paths), remedy)
    entries = meta_layout.table(model, files.embedding_axis)
    wholes = files.match(entries if files.has_head else entries[:-1])
    if not files.has_head or tied(wholes[-1], wholes[0]):
        wholes = wholes[: len(entries) - 1]
        model, reason = meta_params.architecture(params, words, **found, tied=True, dtype=stored)
    if max_position:
        model, reason = dataclasses.replace(model, max_position=max_position), '--max_position'
    tensors = [in_dtype(w.planned(), DTYPES.get(dtype)) for w in wholes]
    size = sum(t.size for t in tensors)
    print(f"Context: {model.max_position:,} tokens ({reason}), which Meta's files do not give.")
    with new_directory(target, size) as partial:
        shards.write(partial, shown(tensors, 'Converting'), kind, max_shard_size)
        config = huggingface.architecture_to_hf_config(model, dtype or stored)
        huggingface.write_json(partial / 'config.json', config)
        huggingface.write_json(
            partial / 'generation_config.json', huggingface.generation_config(model)
        )
        meta_tokenizer.write(words_file, tokenizer, partial)
        huggingface.copy(words_file.parent, partial, huggingface.LICENCE_FILES)
    return Path(target)


def to_meta(source: str | Path, target: str | Path, count: int = 1, dtype: str = '') -> Path:
    """Writes a Hugging Face directory of a LLaMA in Meta's layout.

    Args:
        source: The directory, or a hub name.
        target: A directory that does not exist yet, or is empty.
        count: How many files `consolidated.NN.pth`, one for each GPU that Meta's code shall use.
        dtype: As in `from_meta`.
    Returns:
        The target.
    Raises:
        ValueError: Meta's layout cannot say the model, it cannot be cut into so many files, a file
            is missing or damaged, or the target is not empty.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    source = huggingface.resolve(source)
    model = huggingface.read_architecture(source)
    words = next((p for p in _tokenizers(source) if p.is_file()), None)
    by_rank = tiktoken_model.is_ranks(words) if words else model.vocab_size >= LLAMA_3_VOCABULARY
    values = meta_params.values(model, by_rank)
    meta_layout.check_divides(model, count, f'Set --shards to a divisor, not {count}.')
    stored = names.match(model, shards.read(source))
    entries = meta_layout.table(model, ROWS if by_rank else COLUMNS)
    if model.tied:  # Meta's code has no tied tables
        stored[entries[-1].name] = stored[entries[0].name]
    parts = [
        [
            in_dtype(
                meta_layout.part(entry, stored[entry.name].array, index, count), DTYPES.get(dtype)
            )
            for entry in entries
        ]
        for index in range(count)
    ]
    if words is None:
        print(
            f'{source} has no {meta_tokenizer.FILE}, so --target gets none: copy the one that Meta '
            'published with this model.'
        )
    _warn(model, by_rank, dtype or _dtype(stored.values()))
    flat = shown([t for tensors in parts for t in tensors], 'Converting')
    with new_directory(target, sum(t.size for t in flat)) as partial:
        for index in range(count):
            own = flat[index * len(entries) : (index + 1) * len(entries)]
            torch_files.write(partial / NAME.format(index), own)
        huggingface.write_json(partial / meta_params.FILE, values)
        if words:
            shutil.copyfile(words, partial / meta_tokenizer.FILE)
        huggingface.copy(source, partial, huggingface.LICENCE_FILES)
    return Path(target)


def _tokenizers(source: Path) -> Iterator[Path]:
    """Where Meta's own file may lie; the hub's directories of Llama 3 have it in a folder."""
    yield source / meta_tokenizer.FILE
    yield source / 'original' / meta_tokenizer.FILE


def _warn(model: Architecture, by_rank: bool, dtype: str) -> None:
    """Says what Meta's files leave out where `from_meta` would take something else."""
    params = meta_params.parse(meta_params.values(model, by_rank), meta_params.FILE)
    words = meta_params.Words(by_rank, model.bos_id, model.eos_ids)
    sizes = {'vocab_size': model.vocab_size, 'mlp': model.mlp, 'tied': model.tied}
    back, reason = meta_params.architecture(params, words, **sizes, dtype=dtype)
    if back.max_position != model.max_position:
        print(
            f"The context of {model.max_position:,} tokens is not in Meta's files: on the way back "
            f'give --max_position={model.max_position}, or {back.max_position} is taken ({reason}).'
        )


def _dtype(tensors: Iterable[Stored]) -> str:
    return common_dtype({t.place: t.array.dtype for t in tensors})
