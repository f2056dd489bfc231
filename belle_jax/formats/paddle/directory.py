"""PaddleNLP's model directories: opened, and written.

PaddleNLP gives its models the names of transformers' with a prefix of its own, and Paddle stores
the weight of a linear layer inputs first, [in, out], where PyTorch has [out, in].
Source: `_get_name_mappings` of paddlenlp 2.8's bloom and llama.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from belle_jax import families
from belle_jax.families import HEAD, Architecture
from belle_jax.files import write_json
from belle_jax.formats import huggingface
from belle_jax.formats.paddle import pdparams, tokenizer_files
from belle_jax.formats.paddle.config import (
    OWN,
    generation_config,
    paddle_config,
    read_architecture,
)
from belle_jax.formats.protocol import PublishedModel, match, new_model
from belle_jax.weights import shards
from belle_jax.weights.tensors import Stored, common_dtype, planned

KIND, STEM = 'pdparams', 'model_state'
KEPT = ('README.md', *huggingface.LICENCE_FILES)
TABLE = 'embed.table'
# The output table: BLOOM's is a second name of the embedding, stored by some versions.
HEADS = (HEAD, 'lm_head.decoder_weight')
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
    architecture = read_architecture(source)
    if not any(source.glob(f'{STEM}.{KIND}*')):
        raise ValueError(
            f'{source} holds no {STEM}.{KIND}: point to a complete directory of PaddleNLP. '
            "(Weights in safetensors are not read here: Hugging Face's need no conversion.)"
        )
    named = translated(architecture, shards.read(source, {KIND: STEM}, {KIND: pdparams.read}))
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
    generation = generation_config(source, architecture)
    write_json(target / 'generation_config.json', generation)
    huggingface.copy(source, target, KEPT)
    return tokenizer_files.to_huggingface(source, target, architecture.family)


def write(model: PublishedModel, target: str | Path, dtype: str = '') -> Path:
    """Writes a model as PaddleNLP has it; the directory appears when it is complete.

    Args:
        model: Open in a layout that has whole tensors; the small files are taken from its
            directory, as Hugging Face has them.
        target: A directory that does not exist yet, or is empty.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
    Returns:
        The target.
    Raises:
        ValueError: PaddleNLP has no such model, a number does not fit the dtype, or the target is
            not empty.
        OSError: the disk is full; nothing is left behind.
    """
    architecture, family = model.architecture, model.architecture.family
    config = paddle_config(architecture, dtype or model.dtype)
    linear = {n for e in families.tensor_maps(architecture) if _is_linear(e) for n in e.their_names}
    prefix, tensors = families.of(architecture).prefix, []
    for name in model.tensors:
        array = model.array(name).T if name in linear else model.array(name)
        theirs = name if name == HEAD else f'{family}.{name.removeprefix(prefix)}'
        tensors.append(planned(theirs, array))
    with new_model(model, target, tensors, dtype) as (partial, written):
        pdparams.write(partial / f'{STEM}.{KIND}', written)
        write_json(partial / 'config.json', config)
        generation = generation_config(model.directory, architecture)
        write_json(partial / 'generation_config.json', generation)
        huggingface.copy(model.directory, partial, KEPT)
        for note in tokenizer_files.to_paddle(model.directory, partial, family):
            print(note)
    return Path(target)


# --- names and layouts ----------------------------------------------------------------------------


def translated(architecture: Architecture, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """PaddleNLP's tensors under the names and in the layout of Hugging Face.

    Args:
        architecture: The model.
        stored: By PaddleNLP's names, with a prefix or none.
    Returns:
        Views of them; whether all are there, and none is left over, `match` says.
    Raises:
        ValueError: a linear layer has another shape, or a tensor is there twice.
    """
    own, prefix = f'{architecture.family}.', families.of(architecture).prefix
    entries = {name: e for e in families.tensor_maps(architecture) for name in e.their_names}
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        bare = name.removeprefix(own).removeprefix(prefix)
        if MASK.fullmatch(bare):
            continue  # computed, as GPT-2's code has it
        full = HEAD if name in HEADS else prefix + bare
        array = tensor.array
        if full == HEAD:
            array = _head(array, architecture)
            name = full
        elif full in entries and _is_linear(entries[full]):
            shape = entries[full].their_shape[::-1]
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


def _is_linear(entry: families.TensorMap) -> bool:
    return bool(entry.inputs) and entry.ours != TABLE


def _head(array: np.ndarray, architecture: Architecture) -> np.ndarray:
    """The output table [V, D], stored as a linear layer or, if always tied, as the embedding."""
    shape = (architecture.vocab_size, architecture.embed)
    as_stored = array.shape == shape and (shape[0] != shape[1] or OWN[architecture.family].tied)
    return array.T if array.shape == shape[::-1] and not as_stored else array
