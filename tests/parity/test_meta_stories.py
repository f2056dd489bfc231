"""A really trained model in Meta's layout: converted, it says its published words."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import belle_jax
import llama2c
from as_meta import from_meta, to_meta
from belle_jax.data import tokenizer
from belle_jax.decoding import Engine, Sampling
from belle_jax.weights import shards, torch_files

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path('data') / 'tinystories-260k'


def program(module, *flags) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', module, *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def stories_in_metas_layout(source: Path, target: Path, count: int) -> None:
    """Writes `stories260K.bin` as Meta wrote LLaMA 1: the rows of wq and wk stay as they are.

    Source: karpathy/llama2.c, run.c (memory_map_weights), for the order of the arrays;
        meta-llama/llama, llama/model.py, for which dimension fairscale's layers cut.
    """
    raw = torch.from_numpy(np.fromfile(source / 'stories260K.bin', np.float32)[7:].copy())
    header = np.fromfile(source / 'stories260K.bin', np.int32, 7).tolist()
    dim, hidden, layers, heads, kv_heads, vocab, _ = header
    kv_dim, at = dim // heads * kv_heads, 0
    whole = {}
    for name, shape in (
        ('tok_embeddings', (vocab, dim)),
        ('attention_norm', (layers, dim)),
        ('attention.wq', (layers, dim, dim)),
        ('attention.wk', (layers, kv_dim, dim)),
        ('attention.wv', (layers, kv_dim, dim)),
        ('attention.wo', (layers, dim, dim)),
        ('ffn_norm', (layers, dim)),
        ('feed_forward.w1', (layers, hidden, dim)),
        ('feed_forward.w2', (layers, dim, hidden)),
        ('feed_forward.w3', (layers, hidden, dim)),
        ('norm', (dim,)),
    ):
        values = raw[at : at + int(np.prod(shape))].reshape(shape)
        at += values.numel()
        if len(shape) > 1 and name != 'tok_embeddings':
            whole |= {f'layers.{i}.{name}.weight': values[i] for i in range(layers)}
        else:
            whole[f'{name}.weight'] = values
    whole['output.weight'] = whole['tok_embeddings.weight']

    def cut(name, values, index):
        if 'norm' in name:
            return values.clone()
        axis = 1 if name.split('.')[-2] in ('wo', 'w2', 'tok_embeddings') else 0
        return values.chunk(count, axis)[index].clone()

    target.mkdir()
    for index in range(count):
        own = {name: cut(name, values, index) for name, values in whole.items()}
        own['rope.freqs'] = torch.zeros(dim // heads // 2)
        torch.save(own, target / f'consolidated.{index:02d}.pth')
    params = {
        'dim': dim,
        'n_layers': layers,
        'n_heads': heads,
        'n_kv_heads': kv_heads,
        'vocab_size': -1,
        'multiple_of': 4,
        'norm_eps': 1e-5,
    }
    (target / 'params.json').write_text(json.dumps(params))
    (target / 'tokenizer.model').write_bytes((source / 'tok512.model').read_bytes())


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(
        left[name].array.dtype == right[name].array.dtype
        and left[name].array.shape == right[name].array.shape
        and left[name].array.tobytes() == right[name].array.tobytes()
        for name in left
    )


def test_the_programs_convert_it_and_sample_says_its_words(shared, tmp_path):
    source, model = shared / FOLDER, tmp_path / 'hf'
    stories_in_metas_layout(source, tmp_path / 'meta', 2)
    flags = (f'--source={tmp_path / "meta"}', f'--target={model}', '--max_position=512')
    done = program('convert.from_meta', *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(model)
    prompts, output = tmp_path / 'prompts.jsonl', tmp_path / 'answers.jsonl'
    prompts.write_text('{"prompt": ""}\n', 'utf-8')
    done = program(
        'belle_jax.sample',
        *(f'--model={model}', '--template=none', '--max_new_tokens=200'),
        *(f'--prompts={prompts}', f'--output={output}'),
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(output.read_text('utf-8'))
    assert answer['output'] == (source / 'expected_greedy_200.txt').read_text('utf-8')


def test_in_one_two_and_four_shards_it_is_the_same_model_there_and_back(shared, tmp_path):
    source, expected = shared / FOLDER, tmp_path / 'expected'
    llama2c.to_huggingface(source / 'stories260K.bin', source / 'tok512.model', expected)
    for count in (1, 2, 4):
        theirs, ours = tmp_path / f'meta{count}', tmp_path / f'hf{count}'
        stories_in_metas_layout(source, theirs, count)
        from_meta(theirs, ours, max_position=512)
        assert equal(shards.read(ours), shards.read(expected))
        if count != 2:  # the test above
            words = tokenizer.load(ours)
            engine = Engine(belle_jax.load_model(ours), words)
            (said,) = engine.generate([words.encode('', bos=True)], Sampling(max_new_tokens=200))
            assert said.text == (source / 'expected_greedy_200.txt').read_text('utf-8')
        to_meta(ours, tmp_path / f'back{count}', count)
        for index in range(count):
            name = f'consolidated.{index:02d}.pth'
            before = torch_files.read(theirs / name)
            del before['rope.freqs']
            assert equal(torch_files.read(tmp_path / f'back{count}' / name), before)
