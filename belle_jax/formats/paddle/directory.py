"""PaddleNLP's model directories to Hugging Face's and back, tensor by tensor.

PaddleNLP gives its models the names of transformers' with a prefix of its own, and Paddle stores
the weight of a linear layer inputs first, [in, out], where PyTorch has [out, in].
Source: `_get_name_mappings` of paddlenlp 2.8's bloom and llama.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from belle_jax import families
from belle_jax.families import HEAD, Architecture
from belle_jax.files import new_directory, require_new
from belle_jax.formats import huggingface, names
from belle_jax.formats.paddle import config as paddle_config
from belle_jax.formats.paddle import pdparams
from belle_jax.formats.paddle import tokenizer as paddle_tokenizer
from belle_jax.weights import shards as hf_files
from belle_jax.weights.parameters import common_dtype
from belle_jax.weights.tensors import DTYPES, Stored, in_dtype, shown, view

FILE = 'model_state.pdparams'
INDEX = 'model_state.pdparams.index.json'
PREFIX = {'bloom': 'bloom.', 'llama': 'llama.'}
TABLE = 'embed.table'
# The output table: BLOOM's is a second name of the embedding, stored by some versions.
HEADS = (HEAD, 'lm_head.decoder_weight')
MASK = re.compile(r'h\.\d+\.self_attention\.scale_mask_softmax\.causal_mask')


def from_paddle(
    source: str | Path,
    target: str | Path,
    max_shard_size: int = 5 * 10**9,
    kind: str = 'safetensors',
) -> Path:
    """Writes a BLOOM or LLaMA of PaddleNLP's as a Hugging Face directory.

    No code in the files is run, and memory holds a few blocks of rows. The directory appears when
    it is complete.

    Args:
        source: A directory of `model_state.pdparams`, `config.json` and a tokenizer.
        target: A directory that does not exist yet, or is empty.
        max_shard_size: Bytes of a weight file.
        kind: 'safetensors' or 'bin'.
    Returns:
        The target.
    Raises:
        ValueError: a file is missing, damaged, holds something else than a model of such a
            configuration, or the target is not empty.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    source = Path(source)
    architecture = paddle_config.read(source)
    named = translated(architecture, read(source))
    found = names.match(architecture, named)
    tensors = [view(name, found[name].array) for name in named if name in found]
    tensors.sort(key=lambda t: -t.dtype.itemsize)  # safetensors wants the larger ones first
    dtype = common_dtype({t.place: t.array.dtype for t in found.values()})
    with new_directory(target, sum(t.size for t in tensors)) as partial:
        hf_files.write(partial, shown(tensors, 'Converting'), kind, max_shard_size)
        config = huggingface.architecture_to_hf_config(architecture, dtype)
        huggingface.write_json(partial / 'config.json', config)
        generation = paddle_config.generation(source, architecture)
        huggingface.write_json(partial / 'generation_config.json', generation)
        huggingface.copy(source, partial, ('README.md', *huggingface.LICENCE_FILES))
        for note in paddle_tokenizer.from_paddle(source, partial, architecture.family):
            print(note)
    return Path(target)


def to_paddle(source: str | Path, target: str | Path, dtype: str = '') -> Path:
    """Writes a Hugging Face directory as PaddleNLP has it.

    Args:
        source: The directory of a BLOOM or LLaMA, or a hub name.
        target: A directory that does not exist yet, or is empty.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
    Returns:
        The target.
    Raises:
        ValueError: PaddleNLP has no such model, a file is missing or damaged, a number does not fit
            the dtype, or the target is not empty.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    source = huggingface.resolve(source)
    architecture = huggingface.read_architecture(source)
    stored = names.match(architecture, hf_files.read(source))
    dtypes = {t.place: t.array.dtype for t in stored.values()}
    config = paddle_config.values(architecture, dtype or common_dtype(dtypes))
    linear = {n for e in families.tensor_maps(architecture) if _is_linear(e) for n in e.their_names}
    prefix, ours = families.of(architecture).prefix, PREFIX[architecture.family]
    tensors = []
    for name, tensor in stored.items():
        array = tensor.array.T if name in linear else tensor.array
        theirs = name if name == HEAD else ours + name.removeprefix(prefix)
        tensors.append(in_dtype(view(theirs, array), DTYPES.get(dtype)))
    with new_directory(target, sum(t.size for t in tensors)) as partial:
        pdparams.write(partial / FILE, shown(tensors, 'Converting'))
        huggingface.write_json(partial / 'config.json', config)
        generation = paddle_config.generation(source, architecture)
        huggingface.write_json(partial / 'generation_config.json', generation)
        huggingface.copy(source, partial, ('README.md', *huggingface.LICENCE_FILES))
        for note in paddle_tokenizer.to_paddle(source, partial, architecture.family):
            print(note)
    return Path(target)


# --- the files ------------------------------------------------------------------------------------


def read(directory: Path) -> dict[str, Stored]:
    """All tensors of a PaddleNLP directory by PaddleNLP's names, mapped, not read.

    Raises:
        ValueError: there are none, or files are missing or damaged.
    """
    if (directory / FILE).is_file():
        return pdparams.read(directory / FILE)
    if not (directory / INDEX).is_file():
        raise ValueError(
            f'{directory} holds no {FILE}: point to a complete directory of PaddleNLP. (Weights in '
            "safetensors are not read here: Hugging Face's need no conversion.)"
        )
    weight_map = huggingface.read_json(directory / INDEX).get('weight_map')
    tensors: dict[str, Stored] = {}
    files = sorted({str(f) for f in weight_map.values()}) if isinstance(weight_map, dict) else []
    for file in files:
        if Path(file).name != file or not (directory / file).is_file():
            raise ValueError(
                f'{directory / file} is missing: {INDEX} lists it among {len(files)} files. '
                'Complete the download.'
            )
        for name, tensor in pdparams.read(directory / file).items():
            if name in tensors:
                raise ValueError(f'{tensor.place} is also in {tensors[name].file}.')
            tensors[name] = tensor
    return tensors


# --- names and layouts ----------------------------------------------------------------------------


def translated(architecture: Architecture, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """PaddleNLP's tensors under the names and in the layout of Hugging Face.

    Args:
        architecture: The model.
        stored: By PaddleNLP's names, with a prefix or none.
    Returns:
        Views of them; whether all are there, and none is left over, `names.match` says.
    Raises:
        ValueError: a linear layer has another shape, or a tensor is there twice.
    """
    family = architecture.family
    entries = {name: e for e in families.tensor_maps(architecture) for name in e.their_names}
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        bare = name.removeprefix(PREFIX[family]).removeprefix(families.of(architecture).prefix)
        if MASK.fullmatch(bare):
            continue  # computed, as GPT-2's code has it
        full = HEAD if name in HEADS else families.of(architecture).prefix + bare
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
    """The output table [V, D]: LLaMA's is stored as a linear layer, BLOOM's as its embedding."""
    shape = (architecture.vocab_size, architecture.embed)
    square = shape[0] == shape[1]
    turned = array.shape == shape[::-1] and (not square or architecture.family == 'llama')
    return array.T if turned else array
