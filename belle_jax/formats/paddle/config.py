"""PaddleNLP's configurations: which model they mean, and back.

Today's `config.json` has Hugging Face's keys with a few of its own; the `model_config.json` of
before nests the arguments of classes within each other.
Source: paddlenlp 2.8, transformers/configuration_utils.py, bloom/ and llama/configuration.py.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from belle_jax.families import Architecture
from belle_jax.files import read_json
from belle_jax.formats import huggingface

FILES = ('config.json', 'model_config.json')


@dataclasses.dataclass(frozen=True)
class PaddleFamily:
    """What is PaddleNLP's own in a family."""

    tokenizer: str  # the class of its tokenizer
    pieces: str  # what it calls tokenizer.model; '' where it has vocab.json and merges.txt
    always: Mapping[str, Any]  # fields of the architecture that it has with no other value
    refused: tuple[str, ...]  # settings that change the arithmetic or tensors, and are not read
    unknown: tuple[str, ...]  # keys of Hugging Face's that it does not know, or knows as another

    @property
    def tied(self) -> bool:
        """Whether its output table is always the embedding."""
        return bool(self.always.get('tied'))


OWN = {
    'bloom': PaddleFamily(
        tokenizer='BloomTokenizer',
        pieces='',
        always={'tied': True},
        refused=(),
        unknown=('torch_dtype', 'n_embed', 'num_attention_heads'),
    ),
    'llama': PaddleFamily(
        tokenizer='LlamaTokenizer',
        pieces='sentencepiece.bpe.model',
        always={'attention_bias': False, 'mlp_bias': False, 'activation': 'silu'},
        refused=('alibi', 'fuse_attention_qkv', 'fuse_attention_ffn'),
        unknown=('torch_dtype', 'head_dim', 'attention_bias', 'mlp_bias')
        + ('rope_scaling', 'rope_parameters'),
    ),
}
# What PaddleNLP's settings for generating have in common with Hugging Face's.
GENERATION = (
    *('bos_token_id', 'eos_token_id', 'pad_token_id', 'max_new_tokens'),
    *('temperature', 'top_k', 'top_p', 'repetition_penalty'),
)


def read_architecture(directory: Path) -> Architecture:
    """Which model a directory's configuration means.

    Raises:
        ValueError: it is missing, or asks for something that is not built here; it is named.
    """
    path = next((directory / f for f in FILES if (directory / f).is_file()), directory / FILES[0])
    config = _flat(read_json(path))
    try:
        config['model_type'] = family = _family(config)
        _check(config)
        if OWN[family].tied:
            config['tie_word_embeddings'] = True
        if config.get('rope_scaling_type') == 'linear':
            factor = config.get('rope_scaling_factor', 1.0)
            config['rope_scaling'] = {'rope_type': 'linear', 'factor': factor}
        return huggingface.architecture_from_config(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path}: {error}') from error


def paddle_config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """A `config.json` for PaddleNLP.

    Args:
        architecture: The model.
        dtype: Of the weights beside it.
    Raises:
        ValueError: PaddleNLP has no such model.
    """
    a = architecture
    if (family := OWN.get(a.family)) is None:
        raise ValueError(f'PaddleNLP has no {a.family}: only BLOOM and LLaMA are written.')
    faults = [
        f'{name}={getattr(a, name)!r}'
        for name, value in family.always.items()
        if getattr(a, name) != value
    ]
    if a.head_dim * a.q_heads != a.embed:
        faults.append('heads of another width than hidden_size / heads')
    if a.rope.kind not in ('default', 'linear'):
        faults.append(f'rotary positions of the kind {a.rope.kind}')
    if faults:
        raise ValueError(f"this {a.family} has {faults[0]}, which PaddleNLP's has not.")
    config = huggingface.architecture_to_hf_config(a, dtype)
    for key in family.unknown:
        del config[key]
    if a.rope.kind == 'linear':
        config |= {'rope_scaling_type': 'linear', 'rope_scaling_factor': a.rope.factor}
    return config


def generation_config(directory: Path, architecture: Architecture) -> dict[str, Any]:
    """A `generation_config.json` that both sides read.

    Args:
        directory: The source, which may have one.
        architecture: The model, whose special tokens it names.
    """
    path = directory / 'generation_config.json'
    found = read_json(path) if path.is_file() else {}
    kept = {k: v for k, v in found.items() if k in GENERATION and v is not None}
    return huggingface.generation_config(architecture) | kept


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of nested classes in one dict; the outer ones win, as in PaddleNLP."""
    out = {k: v for k, v in config.items() if k not in ('init_args', 'init_class')}
    if isinstance(name := config.get('init_class'), str):
        out['architectures'] = [name]
    inner = config.get('init_args')
    for entry in inner if isinstance(inner, list | tuple) else []:
        if isinstance(entry, dict):
            out = _flat(entry) | out
    return out


def _family(config: dict[str, Any]) -> str:
    names = config.get('architectures') or ['']
    name = config.get('model_type') or (names[0] if isinstance(names, list) else '')
    found = next((f for f in OWN if str(name).lower().startswith(f)), None)
    if found is None:
        raise ValueError(f'it is of a {str(name)[:80]!r}: only BLOOM and LLaMA are read.')
    return found


def _check(config: dict[str, Any]) -> None:
    """Refuses what changes the arithmetic, or the tensors, and is not known here."""
    for key in OWN[config['model_type']].refused:
        if config.get(key):
            raise ValueError(f'{key}={json.dumps(config[key])} is not read: save it without.')
    if (kind := config.get('rope_scaling_type')) not in (None, 'linear'):
        raise ValueError(f'rope_scaling_type={kind!r} is not read: only linear is.')
    if (degree := config.get('tensor_parallel_degree', 1)) not in (None, 0, 1, -1):
        raise ValueError(
            f'tensor_parallel_degree={degree}: the weights are cut for several devices. Merge them '
            'in PaddleNLP first (merge_tensor_parallel).'
        )
