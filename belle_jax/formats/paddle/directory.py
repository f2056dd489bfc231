"""PaddleNLP's model directories: opened, and written.

PaddleNLP gives its models the names of transformers' with a prefix of its own, and Paddle stores
the weight of a linear layer inputs first, [in, out], where PyTorch has [out, in]. Today's
`config.json` has Hugging Face's keys with a few of its own; the `model_config.json` of before nests
the arguments of classes within each other.
Source: paddlenlp 2.8, transformers/configuration_utils.py, bloom/ and llama/configuration.py;
    `_get_name_mappings` of its bloom and llama.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from belle_jax import families
from belle_jax.families import HEAD, Architecture
from belle_jax.formats import huggingface
from belle_jax.formats.paddle import pdparams, tokenizer_files
from belle_jax.formats.protocol import PublishedModel, match, new_model
from belle_jax.json_files import read_json, write_json
from belle_jax.weights import shards
from belle_jax.weights.tensors import Stored, common_dtype, planned


@dataclasses.dataclass(frozen=True)
class PaddleFamily:
    """What is PaddleNLP's own in a family."""

    tokenizer: str  # the class of its tokenizer
    pieces: str  # what it calls tokenizer.model; '' where it has vocab.json and merges.txt
    always: Mapping[str, Any]  # fields of the architecture that it has with no other value
    refused: tuple[str, ...]  # settings that change the arithmetic or tensors, and are not read
    unknown: tuple[str, ...]  # keys of Hugging Face's that it does not know, or knows as another


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
CONFIGS = ('config.json', 'model_config.json')
# What PaddleNLP's settings for generating have in common with Hugging Face's.
GENERATION = (
    *('bos_token_id', 'eos_token_id', 'pad_token_id', 'max_new_tokens'),
    *('temperature', 'top_k', 'top_p', 'repetition_penalty'),
)
FILE = 'model_state.pdparams'
KINDS = {'pdparams': shards.FileFormat('model_state', pdparams.read, pdparams.write)}
KEPT = ('README.md', *huggingface.LICENCE_FILES)
# The output table: BLOOM's is a second name of the embedding, stored by some versions.
HEADS = (HEAD, 'lm_head.decoder_weight')
# Computed, as GPT-2's code has it.
MASK = re.compile(r'h\.\d+\.self_attention\.scale_mask_softmax\.causal_mask')


def open(directory: str | Path) -> PublishedModel:
    """Opens a BLOOM or LLaMA of PaddleNLP's; no code in the files is run.

    Args:
        directory: Of `model_state.pdparams`, `config.json` and a tokenizer.
    Raises:
        ValueError: a file is missing, damaged, or holds something else than a model of such a
            configuration.
    """
    source = Path(directory)
    architecture = _architecture(source)
    if not any(source.glob(f'{FILE}*')):
        raise ValueError(
            f'{source} holds no {FILE}: point to a complete directory of PaddleNLP. '
            "(Weights in safetensors are not read here: Hugging Face's need no conversion.)"
        )
    named = _translated(architecture, shards.read(source, KINDS))
    found = match(architecture, named)
    order = [name for name in named if name in found]
    order.sort(key=lambda n: -found[n].array.dtype.itemsize)  # as safetensors wants them
    return PublishedModel(
        directory=source,
        architecture=architecture,
        tensors={name: found[name] for name in order},
        dtype=common_dtype({t.place: t.array.dtype for t in found.values()}),
        carry=functools.partial(_carry, source, architecture),
    )


def _carry(source: Path, architecture: Architecture, target: Path) -> list[str]:
    _carry_settings(source, architecture, target)
    return tokenizer_files.to_huggingface(source, target, OWN[architecture.family].pieces)


def _carry_settings(source: Path, architecture: Architecture, target: Path) -> None:
    """The card, the licence, and settings for generating that both sides read."""
    found = huggingface.read_settings(source / 'generation_config.json')
    kept = {k: v for k, v in found.items() if k in GENERATION and v is not None}
    values = huggingface.generation_config(architecture) | kept
    write_json(target / 'generation_config.json', values)
    huggingface.copy(source, target, KEPT)


def write(model: PublishedModel, target: str | Path, dtype: str = '') -> Path:
    """Writes a model as PaddleNLP has it; the directory appears when it is complete.

    Args:
        model: Open in a layout that has whole tensors; the small files are taken from its
            directory, as Hugging Face has them.
        target: A new directory, or an empty one; returned when it is complete.
        dtype: As in `protocol.new_model`.
    Raises:
        ValueError: PaddleNLP has no such model.
    """
    architecture, source = model.architecture, model.directory
    config = _config(architecture, dtype or model.dtype)
    family, linear = OWN[architecture.family], _linear(architecture)
    prefix, tensors = families.of(architecture).prefix, []
    for name in model.tensors:
        array = model.array(name).T if name in linear else model.array(name)
        bare = name.removeprefix(prefix)
        tensors.append(planned(name if name == HEAD else f'{architecture.family}.{bare}', array))
    with new_model(model, target, tensors, dtype) as (partial, written):
        pdparams.write(partial / FILE, written)
        write_json(partial / CONFIGS[0], config)
        _carry_settings(source, architecture, partial)
        notes = tokenizer_files.to_paddle(source, partial, family.pieces, family.tokenizer)
        for note in notes:
            print(note)
    return Path(target)


# --- names and layouts ----------------------------------------------------------------------------


def _translated(architecture: Architecture, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """PaddleNLP's tensors, with a prefix or none, under Hugging Face's names and in its layout.

    Whether all are there and none is left over, `match` says.
    """
    own, prefix = f'{architecture.family}.', families.of(architecture).prefix
    linear, table = _linear(architecture), (architecture.vocab_size, architecture.embed)
    square = table[0] == table[1] and 'tied' in OWN[architecture.family].always
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        bare = name.removeprefix(own).removeprefix(prefix)
        if MASK.fullmatch(bare):
            continue
        full, array = prefix + bare, tensor.array
        if name in HEADS:
            name = full = HEAD
            # Stored as a linear layer or, if always tied, as the embedding.
            if array.shape == table[::-1] and not square:
                array = array.T
        elif full in linear:
            shape = linear[full][::-1]
            if array.shape != shape:
                raise ValueError(
                    f'{tensor.place} has shape {list(array.shape)}, but config.json asks for '
                    f'{list(shape)} (Paddle stores [in, out]). Correct config.json, or take the '
                    'weights that belong to it.'
                )
            array = array.T
        if full in found:
            raise ValueError(f'{tensor.place} is there a second time, as {found[full].name}.')
        found[full] = Stored(name, tensor.file, array)
    return found


def _linear(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """What Paddle stores as linear layers: Hugging Face's names and shapes."""
    embedding = families.of(architecture).embedding
    maps = families.tensor_maps(architecture)
    return {n: m.their_shape for m in maps if m.inputs for n in m.their_names if n != embedding}


# --- configurations -------------------------------------------------------------------------------


def _architecture(directory: Path) -> Architecture:
    """Which model a configuration means; what is not built here is refused by name."""
    paths = [directory / name for name in CONFIGS]
    path = next(filter(Path.is_file, paths), paths[0])
    config = _flat(read_json(path))
    try:
        names = config.get('architectures') or ['']
        name = config.get('model_type') or (names[0] if isinstance(names, list) else '')
        family = next((f for f in OWN if str(name).lower().startswith(f)), None)
        if family is None:
            raise ValueError(f'it is of a {str(name)[:80]!r}: only BLOOM and LLaMA are read.')
        for key in OWN[family].refused:
            if config.get(key):
                raise ValueError(f'{key}={json.dumps(config[key])} is not read: save it without.')
        if (kind := config.get('rope_scaling_type')) not in (None, 'linear'):
            raise ValueError(f'rope_scaling_type={kind!r} is not read: only linear is.')
        if (degree := config.get('tensor_parallel_degree', 1)) not in (None, 0, 1, -1):
            raise ValueError(
                f'tensor_parallel_degree={degree}: the weights are cut for several devices. Merge '
                'them in PaddleNLP first (merge_tensor_parallel).'
            )
        config['model_type'] = family
        if 'tied' in OWN[family].always:
            config['tie_word_embeddings'] = True
        if kind == 'linear':
            factor = config.get('rope_scaling_factor', 1.0)
            config['rope_scaling'] = {'rope_type': 'linear', 'factor': factor}
        return huggingface.architecture_from_config(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path}: {error}') from error


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


def _config(a: Architecture, dtype: str) -> dict[str, Any]:
    """A `config.json` for PaddleNLP; a model that it does not have is refused by name."""
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
