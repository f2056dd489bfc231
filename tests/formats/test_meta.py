"""Meta's LLaMA files: to a Hugging Face directory and back to the bit, and the same model."""

import collections
import dataclasses
import json
import math
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import belle_jax
from as_meta import (
    DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    LLAMA_3,
    MLP,
    PARAMS,
    VOCAB,
    check,
    check_files,
    cut,
    for_huggingface,
    from_meta,
    llama2,
    publish,
    ranks,
    sentencepiece,
    to_meta,
    torch,
    weights,
)
from belle_jax.data import tokenizer
from belle_jax.families import PRESETS, Rope
from belle_jax.formats import huggingface
from belle_jax.formats.meta import layout, params
from belle_jax.weights import shards
from belle_jax.weights.tensors import DTYPES, in_dtype

ROOT = Path(__file__).resolve().parents[2]


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 4])
@pytest.mark.parametrize(
    ('release', 'dtype', 'axis', 'params', 'words'),
    [
        ('1', 'float16', 1, PARAMS | {'n_kv_heads': None, 'norm_eps': 1e-6}, sentencepiece()),
        ('2', 'bfloat16', 1, PARAMS, sentencepiece()),
        ('3', 'bfloat16', 0, LLAMA_3, ranks()),
    ],
)
def test_every_bit_comes_there_and_back(tmp_path, count, release, dtype, axis, params, words):
    kv_heads = params['n_kv_heads'] or HEADS
    whole = weights(dtype, kv_heads)
    parts = cut(whole, count, axis)
    stored = [collections.OrderedDict(part) for part in parts]
    buffer = {'1': 'layers.0.attention.inner_attention.rope.freqs', '2': 'rope.freqs'}
    for part in stored if release in buffer else []:
        part[buffer[release]] = torch.ones(DIM // HEADS // 2)
    source = publish(tmp_path / 'meta', stored, params, words)
    target = from_meta(source, tmp_path / 'hf', max_shard_size=20_000)
    check(shards.read(target), for_huggingface(whole, kv_heads))
    model = huggingface.read_architecture(target)
    assert (model.mlp, model.vocab_size, model.tied, model.embed) == (MLP, VOCAB, False, DIM)
    assert (model.q_heads, model.kv_heads) == (HEADS, kv_heads)
    special = VOCAB - 256
    assert (model.max_position, model.rope.theta, model.bos_id, model.eos_ids) == {
        '1': (2048, 1e4, 1, (2,)),
        '2': (4096, 1e4, 1, (2,)),
        '3': (8192, 5e5, special, (special + 1, special + 9)),
    }[release]
    config = json.loads((target / 'config.json').read_text())
    assert config['dtype'] == config['torch_dtype'] == dtype
    check_files(to_meta(target, tmp_path / 'back', count), parts)
    # And cut in another way, from what came back.
    again, other = from_meta(tmp_path / 'back', tmp_path / 'hf2'), {1: 2, 2: 4, 4: 1}[count]
    check_files(to_meta(again, tmp_path / 'other', other), cut(whole, other, axis))
    assert json.loads((again / 'config.json').read_text()) == config
    assert (tmp_path / 'other' / 'tokenizer.model').read_bytes() == words


def test_a_tensor_larger_than_a_block_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, 'BLOCK', 2000)
    whole = weights('bfloat16')
    source = publish(tmp_path / 'meta', cut(whole, 4, 1), PARAMS, sentencepiece())
    target = from_meta(source, tmp_path / 'hf')
    check(shards.read(target), for_huggingface(whole))
    check_files(to_meta(target, tmp_path / 'back', 2), cut(whole, 2, 1))
    rows = [torch.zeros(4000, 1000) for _ in range(2)]  # 32 MB
    for axis, heads in ((0, 10), (1, 0), (0, 0)):
        shape = (8000, 1000) if axis == 0 else (4000, 2000)
        entry = layout.MetaTensor('x', 'y', shape, axis, heads)
        tensor = layout.joined(entry, [r.numpy() for r in rows])
        tensor = in_dtype(tensor, DTYPES['bfloat16'])
        tracemalloc.start()
        with (tmp_path / 'out').open('wb') as file:
            tensor.write(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (tmp_path / 'out').stat().st_size == 16_000_000
        assert peak < (8_000_000 if heads else 200_000)  # a head is a row


def test_tied_tables_are_found_whether_stored_once_or_twice(tmp_path):
    whole = weights('bfloat16', tied=True)
    scaled = LLAMA_3 | {'use_scaled_rope': True}
    twice = publish(tmp_path / 'twice', cut(whole, 2, 0), scaled, ranks())
    parts = cut(whole, 2, 0)
    for part in parts:
        del part['output.weight']
    once = publish(tmp_path / 'once', parts, scaled, ranks())
    untied = publish(tmp_path / 'untied', cut(weights('bfloat16'), 2, 0), scaled, ranks())
    expected = for_huggingface(whole)
    del expected['lm_head.weight']
    for source in (twice, once):
        target = from_meta(source, tmp_path / f'{source.name}-hf')
        check(shards.read(target), expected)
        model = huggingface.read_architecture(target)
        # Llama 3.2's small models; Meta's code cannot tie, so both tables go back.
        assert (model.tied, model.rope) == (True, Rope('llama3', 5e5, 32.0, 1.0, 4.0, 8192))
        assert (model.max_position, model.eos_ids) == (131_072, (265, 272, 273))
        check_files(to_meta(target, tmp_path / f'{source.name}-back', 2), cut(whole, 2, 0))
    model = huggingface.read_architecture(from_meta(untied, tmp_path / 'untied-hf'))
    assert (model.tied, model.rope.factor) == (False, 8.0)


def test_a_dtype_that_is_asked_for_is_what_comes(tmp_path):
    source = llama2(tmp_path / 'meta')
    target = from_meta(source, tmp_path / 'hf', 'float32', kind='bin')
    whole = weights('bfloat16')
    check(shards.read(target), {n: t.float() for n, t in for_huggingface(whole).items()})
    assert json.loads((target / 'config.json').read_text())['dtype'] == 'float32'
    half = {n: t.half() for n, t in whole.items()}
    check_files(to_meta(target, tmp_path / 'back', 1, 'float16'), [half])
    whole['norm.weight'][3] = 1e5
    large = publish(tmp_path / 'large', [whole], PARAMS, sentencepiece())
    with pytest.raises(ValueError, match=r'model.norm.weight holds .*--dtype=bfloat16'):
        from_meta(large, tmp_path / 'hf2', 'float16')
    assert not (tmp_path / 'hf2').exists()


# --- the same model -------------------------------------------------------------------------------


def metas_logits(whole: dict, tokens, theta: float):
    """Meta's model, in complex numbers; no shards and no cache.

    Source: meta-llama/llama-models, llama3/model.py.
    """
    head, length = DIM // HEADS, tokens.shape[1]
    freqs = 1.0 / theta ** (torch.arange(0, head, 2).double() / head)
    wavelengths = 2 * math.pi / freqs
    smooth = ((8192 / wavelengths - 1) / (4 - 1)).clamp(0, 1)
    freqs = (1 - smooth) * freqs / 8 + smooth * freqs
    turns = torch.polar(torch.ones(length, head // 2).double(),
                        torch.outer(torch.arange(length).double(), freqs))  # fmt: skip

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * whole[f'{name}.weight']

    def linear(x, name):
        return x @ whole[f'{name}.weight'].T

    def turned(x):
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns[:, None]).flatten(-2)

    whole = {name: tensor.double() for name, tensor in whole.items()}
    x = whole['tok_embeddings.weight'][tokens]
    future = torch.full((length, length), -math.inf).triu(1).double()
    for i in range(LAYERS):
        a, f = f'layers.{i}.attention', f'layers.{i}.feed_forward'
        h = norm(x, f'layers.{i}.attention_norm')
        q, k, v = (linear(h, f'{a}.{n}').unflatten(-1, (-1, head)) for n in ('wq', 'wk', 'wv'))
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 2) for t in (turned(k), v))
        scores = torch.einsum('btnh,bsnh->bnts', turned(q), k) / math.sqrt(head) + future
        mixed = torch.einsum('bnts,bsnh->btnh', scores.softmax(-1), v).flatten(-2)
        x = x + linear(mixed, f'{a}.wo')
        h = norm(x, f'layers.{i}.ffn_norm')
        gate = torch.nn.functional.silu(linear(h, f'{f}.w1'))
        x = x + linear(gate * linear(h, f'{f}.w3'), f'{f}.w2')
    return linear(norm(x, 'norm'), 'output').numpy()


def test_it_says_what_metas_code_says_here_and_in_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    whole = weights('float32')
    # With this theta the three frequencies are kept, smoothed and divided.
    params = LLAMA_3 | {'use_scaled_rope': True, 'rope_theta': 1e8}
    source = publish(tmp_path / 'meta', cut(whole, 2, 0), params, ranks())
    target = from_meta(source, tmp_path / 'hf')
    tokens = torch.from_numpy(np.random.default_rng(2).integers(0, VOCAB, (2, 9)))
    expected = metas_logits(whole, tokens, 1e8)
    assert np.abs(expected).max() > 1
    assert np.allclose(belle_jax.load_model(target)(tokens.numpy()), expected, atol=1e-4)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(target).eval()
    with torch.no_grad():
        assert np.allclose(theirs(tokens).logits.numpy(), expected, atol=1e-4)
    assert theirs.generation_config.eos_token_id == [265, 272, 273]


@pytest.mark.parametrize('release', ['2', '3'])
def test_transformers_tokenizer_says_the_same_ids(tmp_path, release):
    transformers = pytest.importorskip('transformers')
    words, params = (sentencepiece(), PARAMS) if release == '2' else (ranks(), LLAMA_3)
    axis = 1 if release == '2' else 0
    source = publish(tmp_path / '7B', cut(weights('float16'), 1, axis), params, words)
    bare = shutil.copytree(source, tmp_path / 'bare')
    shutil.move(source / 'tokenizer.model', tmp_path / 'tokenizer.model')  # as LLaMA 1 has it
    (tmp_path / 'LICENSE').write_text('terms')
    target = from_meta(source, tmp_path / 'hf')
    assert (target / 'LICENSE').read_text() == 'terms'
    assert (target / 'tokenizer.model').read_bytes() == words
    ours, theirs = tokenizer.load(target), transformers.AutoTokenizer.from_pretrained(target)
    only = tokenizer.load(bare)
    for text in ('', 'the oo', ' the  ab', '  a\n\n天地 zz', "it's 12345 ééé\t\n x", '▁a'):
        ids = ours.encode(text, bos=True)
        assert theirs(text).input_ids == ids == only.encode(text, bos=True)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    assert len(theirs) == len(ours) == VOCAB


def test_a_theta_that_releases_take_differently_comes_back(tmp_path):
    params = LLAMA_3 | {'rope_theta': 10_000.0}
    source = publish(tmp_path / 'meta', cut(weights('float16'), 1, 0), params, ranks())
    target = from_meta(source, tmp_path / 'hf')
    again = from_meta(to_meta(target, tmp_path / 'back'), tmp_path / 'hf2')
    assert huggingface.read_architecture(target).rope == Rope(theta=10_000.0)
    assert huggingface.read_architecture(again) == huggingface.read_architecture(target)


def test_published_params_mean_the_published_architectures():
    """The params.json files of Meta's downloads; -1 and the left out fields are theirs."""
    one = {'multiple_of': 256, 'norm_eps': 1e-6, 'vocab_size': -1}
    two = {'multiple_of': 256, 'norm_eps': 1e-5, 'vocab_size': -1}
    three = {'norm_eps': 1e-5, 'n_kv_heads': 8, 'vocab_size': 128_256, 'rope_theta': 500_000.0}
    seventy = {'dim': 8192, 'n_heads': 64, 'n_layers': 80, 'ffn_dim_multiplier': 1.3}
    for name, dtype, values in (
        ('llama_7b', 'float16', one | {'dim': 4096, 'n_heads': 32, 'n_layers': 32}),
        ('llama_13b', 'float16', one | {'dim': 5120, 'n_heads': 40, 'n_layers': 40}),
        ('llama_30b', 'float16', one | {'dim': 6656, 'n_heads': 52, 'n_layers': 60}),
        ('llama_65b', 'float16', one | {'dim': 8192, 'n_heads': 64, 'n_layers': 80}),
        ('llama2_7b', 'bfloat16', two | {'dim': 4096, 'n_heads': 32, 'n_layers': 32}),
        ('llama2_13b', 'float16', two | {'dim': 5120, 'n_heads': 40, 'n_layers': 40}),
        ('llama2_70b', 'float16', two | seventy | {'n_kv_heads': 8, 'multiple_of': 4096}),
        (
            'llama3_8b',
            'bfloat16',
            three
            | {'dim': 4096, 'n_heads': 32, 'n_layers': 32}
            | {'multiple_of': 1024, 'ffn_dim_multiplier': 1.3},
        ),
        ('llama3_70b', 'bfloat16', three | seventy | {'multiple_of': 4096}),
    ):
        preset = PRESETS[name]
        mlp = params.mlp_width(
            values['dim'], values['multiple_of'], values.get('ffn_dim_multiplier')
        )
        words = params.Words('llama3' in name, preset.bos_id, preset.eos_ids)
        sizes = {'vocab_size': preset.vocab_size, 'mlp': mlp, 'tied': False, 'dtype': dtype}
        said = params.parse(values, name)
        assert params.architecture(said, words, **sizes)[0] == preset, name
        back = params.values(preset, words.by_rank)
        assert back | {'vocab_size': values['vocab_size']} == values, name
        said = params.parse(back, name)
        assert params.architecture(said, words, **sizes)[0] == preset, name


@pytest.mark.parametrize('dim', [48, 64, 4096, 5120])
def test_every_width_of_an_mlp_can_be_written(dim):
    sizes = {'embed': dim, 'q_heads': 4, 'kv_heads': 4, 'head_dim': dim // 4}
    model = dataclasses.replace(PRESETS['llama_7b'], **sizes)
    for mlp in [*range(dim, 5 * dim, max(1, dim // 61)), 8 * dim // 3, 172, 11_008, 14_336]:
        values = params.values(dataclasses.replace(model, mlp=mlp), False)
        hidden = int(2 * (4 * dim) / 3)
        if 'ffn_dim_multiplier' in values:
            hidden = int(values['ffn_dim_multiplier'] * hidden)
        multiple = values['multiple_of']
        assert multiple * ((hidden + multiple - 1) // multiple) == mlp


def test_conversion_imports_neither_jax_nor_torch():
    code = 'import sys, belle_jax.formats.meta; sys.exit(bool({"jax", "torch"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0
