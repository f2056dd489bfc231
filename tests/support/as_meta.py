"""LLaMA models as Meta and as Hugging Face write them, for tests: straight from the formats."""

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from belle_jax.formats import huggingface, meta
from belle_jax.weights import torch_files
from belle_jax.weights.tensors import DTYPES

torch = pytest.importorskip('torch')

DIM, HEADS, KV_HEADS, MLP, LAYERS, VOCAB = 48, 8, 4, 80, 2, 520
PARAMS = {'dim': DIM, 'n_layers': LAYERS, 'n_heads': HEADS, 'n_kv_heads': KV_HEADS}
PARAMS |= {'multiple_of': 16, 'ffn_dim_multiplier': 0.6, 'norm_eps': 1e-5, 'vocab_size': -1}
LLAMA_3 = PARAMS | {'vocab_size': VOCAB, 'rope_theta': 500_000.0}


def sentencepiece() -> bytes:
    """A tokenizer.model of LLaMA 1 and 2: a ModelProto of pieces, the kind BPE, no squeezing."""

    def field(number: int, value) -> bytes:
        if isinstance(value, bytes):
            return bytes([number << 3 | 2, len(value)]) + value
        if isinstance(value, float):
            return bytes([number << 3 | 5]) + struct.pack('<f', value)
        return bytes([number << 3, value])

    letters = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(VOCAB - 3 - 256 - 27)]
    words = [('<unk>', 2), ('<s>', 3), ('</s>', 3), *((f'<0x{i:02X}>', 6) for i in range(256))]
    words += [(word, 1) for word in ['▁', *map(chr, range(97, 123)), *letters]]
    assert len(words) == VOCAB
    pieces = (
        field(1, word.encode()) + field(2, float(-i)) + field(3, kind)
        for i, (word, kind) in enumerate(words)
    )
    settings = field(2, field(3, 2)) + field(3, field(3, 1) + field(4, 0))
    return b''.join(field(1, piece) for piece in pieces) + settings


def ranks() -> bytes:
    """A tokenizer.model of LLaMA 3: byte strings by rank; 256 special tokens come after them."""
    tokens = [bytes([i]) for i in range(256)] + [b'th', b'the', b' a', b' the', b'oo', b'ab']
    tokens += [b'  ', b'\n\n']
    assert len(tokens) == VOCAB - 256
    lines = (f'{base64.b64encode(t).decode()} {i}\n' for i, t in enumerate(tokens))
    return ''.join(lines).encode()


def weights(dtype: str, kv_heads: int = KV_HEADS, tied: bool = False) -> dict:
    """A model by Meta's names, uncut."""
    generator = torch.Generator().manual_seed(1)

    def matrix(*shape):
        return (0.3 * torch.randn(shape, generator=generator)).to(getattr(torch, dtype))

    whole, head = {'tok_embeddings.weight': matrix(VOCAB, DIM)}, DIM // HEADS
    for i in range(LAYERS):
        whole |= {
            f'layers.{i}.attention.wq.weight': matrix(DIM, DIM),
            f'layers.{i}.attention.wk.weight': matrix(kv_heads * head, DIM),
            f'layers.{i}.attention.wv.weight': matrix(kv_heads * head, DIM),
            f'layers.{i}.attention.wo.weight': matrix(DIM, DIM),
            f'layers.{i}.feed_forward.w1.weight': matrix(MLP, DIM),
            f'layers.{i}.feed_forward.w2.weight': matrix(DIM, MLP),
            f'layers.{i}.feed_forward.w3.weight': matrix(MLP, DIM),
            f'layers.{i}.attention_norm.weight': 1 + matrix(DIM),
            f'layers.{i}.ffn_norm.weight': 1 + matrix(DIM),
        }
    whole['norm.weight'] = 1 + matrix(DIM)
    whole['output.weight'] = whole['tok_embeddings.weight'] if tied else matrix(VOCAB, DIM)
    return whole


def cut(whole: dict, count: int, embedding_axis: int) -> list[dict]:
    """The parts of each file; they are views of the whole, whose storage the file then holds."""
    axes = {'wo': 1, 'w2': 1, 'tok_embeddings': embedding_axis}
    parts = [{} for _ in range(count)]
    for name, tensor in whole.items():
        axis = axes.get(name.split('.')[-2], 0)
        for part, piece in zip(parts, [tensor] * count if 'norm' in name else
                               tensor.chunk(count, axis), strict=True):  # fmt: skip
            part[name] = piece
    return parts


def publish(path: Path, parts: Sequence[dict], params: dict, words: bytes) -> Path:
    path.mkdir(parents=True)
    for i, part in enumerate(parts):
        torch.save(part, path / f'consolidated.{i:02d}.pth')
    (path / 'params.json').write_text(json.dumps(params))
    (path / 'tokenizer.model').write_bytes(words)
    return path


def llama2(path: Path, count: int = 2) -> Path:
    return publish(path, cut(weights('bfloat16'), count, 1), PARAMS, sentencepiece())


def for_huggingface(whole: dict, kv_heads: int = KV_HEADS) -> dict:
    """The same model by Hugging Face's names: the rows of wq and wk half a head apart."""
    names = {'attention.wq': 'self_attn.q_proj', 'attention.wk': 'self_attn.k_proj'}
    names |= {'attention.wv': 'self_attn.v_proj', 'attention.wo': 'self_attn.o_proj'}
    names |= {'feed_forward.w1': 'mlp.gate_proj', 'feed_forward.w2': 'mlp.down_proj'}
    names |= {'feed_forward.w3': 'mlp.up_proj', 'attention_norm': 'input_layernorm'}
    names |= {'ffn_norm': 'post_attention_layernorm', 'tok_embeddings': 'model.embed_tokens'}
    names |= {'norm': 'model.norm', 'output': 'lm_head'}
    result = {}
    for name, tensor in whole.items():
        layer, bare = '', name.removesuffix('.weight')
        if name.startswith('layers.'):
            _, i, bare = bare.split('.', 2)
            layer = f'model.layers.{i}.'
        if bare in ('attention.wq', 'attention.wk'):
            heads = HEADS if bare.endswith('q') else kv_heads
            halves = [torch.cat([head[0::2], head[1::2]]) for head in tensor.chunk(heads)]
            tensor = torch.cat(halves)
        result[f'{layer}{names[bare]}.weight'] = tensor
    return result


def from_meta(source: Path, target: Path, dtype: str = '', max_position: int = 0, **how) -> Path:
    """What convert.from_meta does."""
    return huggingface.write(meta.open(source, max_position), target, dtype, **how)


def to_meta(source: Path, target: Path, count: int = 1, dtype: str = '') -> Path:
    """What convert.to_meta does."""
    return meta.write(huggingface.open(source), target, count, dtype)


def check(stored, expected: dict) -> None:
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        array = stored[name].array
        assert array.dtype == DTYPES[str(tensor.dtype).removeprefix('torch.')], name
        assert array.shape == tuple(tensor.shape), name
        assert array.tobytes() == tensor.contiguous().view(torch.uint8).numpy().tobytes(), name


def check_files(path: Path, parts: list[dict]) -> None:
    files = sorted(p.name for p in path.glob('*.pth'))
    assert files == [f'consolidated.{i:02d}.pth' for i in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        check(torch_files.read(path / file), part)
        loaded = torch.load(path / file, weights_only=True)
        assert all(torch.equal(loaded[name], tensor) for name, tensor in part.items())
