"""A LLaMA of any layout in Meta's: `consolidated.NN.pth`, `params.json` and `tokenizer.model`."""

import shutil
from pathlib import Path

from belle_jax.data import tiktoken_model
from belle_jax.files import write_json
from belle_jax.formats import huggingface
from belle_jax.formats.meta import layout, params, tokenizer_model
from belle_jax.formats.meta.layout import COLUMNS, ROWS
from belle_jax.formats.meta.reader import NAME
from belle_jax.formats.protocol import PublishedModel, new_model
from belle_jax.weights import torch_files

LLAMA_3_VOCABULARY = 128_000  # no LLaMA of another tokenizer has as many tokens
# Where Meta's own tokenizer may lie; the hub's directories of Llama 3 have it in a folder.
PLACES = ('', 'original')


def write(model: PublishedModel, target: str | Path, count: int = 1, dtype: str = '') -> Path:
    """Writes a model in Meta's layout; the directory appears when it is complete.

    Args:
        model: Open in a layout that has whole tensors.
        target: A directory that does not exist yet, or is empty.
        count: How many files `consolidated.NN.pth`, one for each GPU that Meta's code shall use.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
    Returns:
        The target.
    Raises:
        ValueError: Meta's layout cannot say the model, it cannot be cut into that many files, or
            the target is not empty.
        OSError: the disk is full; nothing is left behind.
    """
    source, architecture = model.directory, model.architecture
    places = (source / place / tokenizer_model.FILE for place in PLACES)
    words = next((path for path in places if path.is_file()), None)
    by_rank = architecture.vocab_size >= LLAMA_3_VOCABULARY
    by_rank = tiktoken_model.is_ranks(words) if words else by_rank
    values = params.values(architecture, by_rank)
    layout.check_divides(architecture, count, f'Set --shards to a divisor, not {count}.')
    entries = layout.table(architecture, ROWS if by_rank else COLUMNS)
    arrays = [model.array(entry.name) for entry in entries[:-1]]
    # Meta's code has no tied tables.
    arrays.append(arrays[0] if architecture.tied else model.array(entries[-1].name))
    tensors = [
        layout.part(entry, array, index, count)
        for index in range(count)
        for entry, array in zip(entries, arrays, strict=True)
    ]
    if words is None:
        print(
            f'{source} has no {tokenizer_model.FILE}, so --target gets none: copy the one that '
            'Meta published with this model.'
        )
    _warn(model, by_rank, dtype or model.dtype)
    with new_model(model, target, tensors, dtype) as (partial, flat):
        for index in range(count):
            own = flat[index * len(entries) : (index + 1) * len(entries)]
            torch_files.write(partial / NAME.format(index), own)
        write_json(partial / params.FILE, values)
        if words:
            shutil.copyfile(words, partial / tokenizer_model.FILE)
        huggingface.copy(source, partial, huggingface.LICENCE_FILES)
    return Path(target)


def _warn(model: PublishedModel, by_rank: bool, dtype: str) -> None:
    """Says what Meta's files leave out where `open` would take something else."""
    a = model.architecture
    said = params.parse(params.values(a, by_rank), params.FILE)
    words = params.Words(by_rank, a.bos_id, a.eos_ids)
    sizes = {'vocab_size': a.vocab_size, 'mlp': a.mlp, 'tied': a.tied}
    back, reason = params.architecture(said, words, **sizes, dtype=dtype)
    if back.max_position != a.max_position:
        print(
            f"The context of {a.max_position:,} tokens is not in Meta's files: on the way back "
            f'give --max_position={a.max_position}, or {back.max_position} is taken ({reason}).'
        )
