"""Small models of both families with no setting at its default, and packed batches for them."""
# JAX and NumPy arrays stand in for each other here, which their stubs do not know.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models

from belle_jax import families, models
from belle_jax.config import Architecture, Rope
from belle_jax.formats import huggingface

LLAMA = Architecture(
    family='llama',
    vocab_size=300,
    embed=64,
    layers=3,
    q_heads=4,
    kv_heads=2,
    head_dim=24,
    mlp=96,
    max_position=64,
    norm_eps=1e-4,
    attention_bias=True,
    mlp_bias=True,
    rope=Rope(theta=500.0),
    init_std=0.1,
)
BLOOM = Architecture(
    family='bloom',
    vocab_size=300,
    embed=64,
    layers=3,
    q_heads=4,
    mlp=128,
    norm_eps=1e-4,
    tied=True,
    post_norm_residual=True,
    init_std=0.1,
)
FAMILIES = {'llama': LLAMA, 'bloom': BLOOM}


def params(architecture: Architecture, seed: int = 0):
    """Random everywhere: norms are not one, biases not zero."""
    start = models.initialise(models.Blueprint(architecture), jax.random.key(seed))
    return {
        name: value
        + 0.05 * jax.random.normal(jax.random.key(i), value.shape) * (value != 0)
        + (0.05 if name.endswith('.bias') else 0)
        for i, (name, value) in enumerate(start.items())
    }


def packed_batch(lengths, seq_len: int, vocab_size: int = 300, seed: int = 0):
    """A batch [rows, seq_len]; `lengths` gives for each row the lengths of its segments."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), seq_len)
    batch = {
        k: np.zeros(shape, np.int32) for k in ('tokens', 'targets', 'segment_ids', 'positions')
    }
    batch['weights'] = np.zeros(shape, np.float32)
    for row, segments in enumerate(lengths):
        at = 0
        for number, length in enumerate(segments, 1):
            text = rng.integers(0, vocab_size, length)
            span = slice(at, at + length)
            batch['tokens'][row, span] = text
            batch['targets'][row, at : at + length - 1] = text[1:]
            batch['weights'][row, at : at + length - 1] = rng.random(length - 1) < 0.7
            batch['segment_ids'][row, span] = number
            batch['positions'][row, span] = np.arange(length)
            at += length
    return batch


def unpacked(batch, seq_len: int):
    """The same segments, a row each."""
    rows = []
    for row in range(batch['tokens'].shape[0]):
        for number in range(1, batch['segment_ids'][row].max() + 1):
            held = batch['segment_ids'][row] == number
            rows.append(
                {k: np.pad(v[row][held], (0, seq_len - held.sum())) for k, v in batch.items()}
            )
    out = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
    out['segment_ids'] = np.minimum(out['segment_ids'], 1)
    return {k: jnp.asarray(v) for k, v in out.items()}


def write_tokenizer(target):
    """A tokenizer of single bytes, into a Hugging Face directory."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 3)}
    words = Tokenizer(tokenizer_models.BPE({'<s>': 1, '</s>': 2, '<pad>': 0, **vocabulary}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ('<pad>', '<s>', '</s>')
    words.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in special])
    words.save(str(target / 'tokenizer.json'))
    settings = {
        'bos_token': '<s>',
        'eos_token': '</s>',
        'tokenizer_class': 'PreTrainedTokenizerFast',
    }
    (target / 'tokenizer_config.json').write_text(json.dumps(settings), 'utf-8')


def write_model(target, seed: int = 0, family: str = 'llama'):
    """A tiny model with a tokenizer of single bytes, as a Hugging Face directory."""
    target.mkdir()
    write_tokenizer(target)
    architecture = dataclasses.replace(
        FAMILIES[family], init_std=0.3, layers=2, max_position=256, bos_id=1, eos_ids=(2,)
    )
    if family == 'bloom':
        architecture = dataclasses.replace(architecture, mlp=4 * architecture.embed)
    config = huggingface.architecture_to_hf_config(architecture, 'float32')
    (target / 'config.json').write_text(json.dumps(config), 'utf-8')
    arrays = {k: np.asarray(v) for k, v in params(architecture, seed).items()}
    weights = {
        name: entry.give(arrays[entry.ours].__getitem__, layer, 0, entry.fold[0])
        for entry in families.tensor_maps(architecture)
        for layer, name in enumerate(entry.their_names)
    }
    save_file(weights, target / 'model.safetensors')


def write_adapter(target, base, rank: int = 4):
    """Adapters of two products of a model that `write_model` wrote, as PEFT's directory."""
    target.mkdir()
    rng, tensors = np.random.default_rng(0), {}
    shapes = {name: array.shape for name, array in load_file(base / 'model.safetensors').items()}
    for name, shape in shapes.items():
        if name.endswith(('q_proj.weight', 'down_proj.weight')):
            stem = f'base_model.model.{name.removesuffix("weight")}'
            a, b = rng.normal(size=(rank, shape[1])), rng.normal(size=(shape[0], rank))
            tensors |= {f'{stem}lora_A.weight': a, f'{stem}lora_B.weight': b}
    save_file(
        {n: (t / 10).astype('f4') for n, t in tensors.items()}, target / 'adapter_model.safetensors'
    )
    settings = {
        'peft_type': 'LORA', 'base_model_name_or_path': base.name, 'r': rank, 'lora_alpha': 8,
        'target_modules': ['q_proj', 'down_proj'], 'bias': 'none', 'task_type': 'CAUSAL_LM',
    }  # fmt: skip
    (target / 'adapter_config.json').write_text(json.dumps(settings))
