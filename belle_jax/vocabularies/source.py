"""The model whose vocabulary is changed: opened, held against its tokenizer, and written again."""

import contextlib
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from belle_jax import families
from belle_jax.data import tiktoken_model, tokenizer
from belle_jax.data.tokenizer import Tokenizer
from belle_jax.families import HEAD
from belle_jax.formats import huggingface
from belle_jax.formats.protocol import PublishedModel
from belle_jax.json_files import read_json
from belle_jax.runs import run_directory
from belle_jax.vocabularies.bytelevel_files import ByteLevelFiles, is_bytelevel
from belle_jax.vocabularies.sentencepiece_files import SentencePieceFiles
from belle_jax.vocabularies.vocabulary_files import VocabularyFiles
from belle_jax.weights.tensors import Planned

REPORT = 'vocabulary.json'
Blocks = Iterator[np.ndarray]


class VocabularySource(NamedTuple):
    """A published model, and the files of its tokenizer."""

    model: PublishedModel
    files: VocabularyFiles

    @property
    def tokens(self) -> int:
        """How many ids the tokenizer has; the tables may have spare rows behind them."""
        return len(self.files.tokenizer)


def open_source(directory: str | Path) -> VocabularySource:
    """Opens a Hugging Face directory or hub name.

    Raises:
        ValueError: it is a run directory, its tokenizer is of a kind that has no pieces to add or
            leave out, or it has more ids than the model has rows.
    """
    path = huggingface.resolve(directory)
    if run_directory.is_run_directory(path):
        raise ValueError(
            f'{path} is a run directory: export it with belle-jax convert to_hf --source={path} '
            '--target=DIR, and give that.'
        )
    model, words = huggingface.open(path), tokenizer.load(path)
    rows = model.architecture.vocab_size
    if len(words) > rows:
        raise ValueError(
            f'{path}: its tokenizer has {len(words):,} ids, and the tables of its model '
            f'{rows:,} rows: take the tokenizer that belongs to the model.'
        )
    return VocabularySource(model, files_of(words))


def files_of(words: Tokenizer) -> VocabularyFiles:
    """The files of a tokenizer; a ValueError if it is of neither kind."""
    file = words.directory / 'tokenizer.model'
    if file.is_file() and not tiktoken_model.is_ranks(file):
        return SentencePieceFiles(words)
    if is_bytelevel(words.backend):
        return ByteLevelFiles(words)
    raise ValueError(
        f'{words.directory} has neither a SentencePiece tokenizer.model nor a byte-level BPE: copy '
        'the tokenizer.model that its tokenizer.json was made from.'
    )


@contextlib.contextmanager
def rewritten(
    source: VocabularySource,
    target: str | Path,
    rows: int,
    blocks: Callable[[np.ndarray], Blocks],
) -> Iterator[Path]:
    """Writes the model with other tables when the block ends without an error.

    Args:
        source: Open.
        target: As for `huggingface.write`.
        rows: Of the new tables.
        blocks: From a table, the blocks of rows of the new one.
    Yields:
        A folder with all small files of the model, to be made ready before its weights are written.
    """
    model = source.model
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder)
        model.carry(ready)
        huggingface.copy(model.directory, ready, ('config.json',))
        yield ready
        tensors = dict(model.tensors)
        for name in (families.of(model.architecture).embedding, HEAD):
            if name in tensors:  # a tied model has no table of its own for the output
                table = model.array(name)
                shape, make = (rows, table.shape[1]), functools.partial(blocks, table)
                tensors[name] = Planned(name, shape, table.dtype, make)
        config = read_json(ready / 'config.json') | {'vocab_size': rows}
        generation = huggingface.read_settings(ready / 'generation_config.json')
        (ready / 'config.json').unlink()
        changed = dataclasses.replace(
            model,
            architecture=huggingface.architecture_from_config(config, generation),
            tensors=tensors,
            config=config,
            carry=functools.partial(_carry, ready),
        )
        huggingface.write(changed, target)


def _carry(ready: Path, target: Path) -> list[str]:
    shutil.copytree(ready, target, dirs_exist_ok=True)
    return []
