"""Small models of random numbers with real tokenizers: LLaMA's, and a byte-level BPE as BLOOM's."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from belle_jax.data import sentencepiece_model
from belle_jax.data.sentencepiece_model import ScoredPiece
from belle_jax.families import Architecture
from belle_jax.formats import huggingface
from belle_jax.formats.protocol import PublishedModel
from published import published

LLAMA = Architecture(
    vocab_size=32_000,
    embed=16,
    layers=1,
    q_heads=2,
    kv_heads=1,
    mlp=24,
    bos_id=1,
    eos_ids=(2,),
)
# Rows behind the tokenizer's, as BLOOM has 200 of them.
BLOOM = Architecture(
    family='bloom',
    vocab_size=6_410,
    embed=16,
    layers=2,
    q_heads=2,
    tied=True,
    bos_id=1,
    eos_ids=(2,),
    pad_id=0,
)


def write(path: Path, architecture: Architecture, files: dict[str, Path], **settings) -> Path:
    """A model of random numbers.

    Args:
        path: Where.
        architecture: Which.
        files: The files of its tokenizer by name.
        settings: Of tokenizer_config.json, where it has none of its own.
    """
    small = path.with_name(f'{path.name}-files')
    small.mkdir(parents=True)
    for name, file in files.items():
        shutil.copyfile(file, small / name)
    if settings:
        (small / 'tokenizer_config.json').write_text(json.dumps(settings))
    carry = functools.partial(huggingface.carry, small)
    tensors = published(architecture)
    return huggingface.write(PublishedModel(path, architecture, tensors, 'float32', carry), path)


SETTINGS = {'tokenizer_class': 'LlamaTokenizer', 'bos_token': '<s>', 'eos_token': '</s>'}
FIRST = 1_000  # of LLaMA's pieces that `small_llama` has, beside the letters


def llama(path: Path, shared: Path) -> Path:
    """With LLaMA's tokenizer in both forms."""
    folder = shared / 'data' / 'tokenizers'
    files = {name: folder / f'llama_{name}' for name in ('tokenizer.model', 'tokenizer.json')}
    return write(path, LLAMA, files, **SETTINGS)


def small_llama(path: Path, shared: Path, spare: int = 0, more: Sequence[ScoredPiece] = ()) -> Path:
    """With the bytes, letters and first pieces of LLaMA's tokenizer.model alone.

    Args:
        path: Where.
        shared: The folder of real files.
        spare: Rows of the model's tables beyond the pieces.
        more: Pieces that follow.
    """
    file = shared / 'data' / 'tokenizers' / 'llama_tokenizer.model'
    pieces = sentencepiece_model.read_model(file).pieces
    pieces = [p for i, p in enumerate(pieces) if i < FIRST or len(p.text) == 1] + [*more]
    small = path.with_name(f'{path.name}.model')
    sentencepiece_model.write_model(file, small, pieces)
    architecture = dataclasses.replace(LLAMA, vocab_size=len(pieces) + spare)
    return write(path, architecture, {'tokenizer.model': small}, **SETTINGS)


def bloom(path: Path, shared: Path) -> Path:
    """With a small byte-level BPE."""
    folder = shared / 'data' / 'tokenizers' / 'zh_bpe_6400'
    names = ('tokenizer.json', 'tokenizer_config.json')
    return write(path, BLOOM, {name: folder / name for name in names})
