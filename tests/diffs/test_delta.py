"""Deltas: every bit comes back, and damage is noticed beforehand."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from belle_jax.diffs.delta import apply, applying, blocks, make, making
from delta_pairs import (
    LLAMA,
    VOCABULARY,
    check_equal,
    load,
    normal,
    pair,
    refuses,
    save,
    torch,
    tuned_of,
)

ROOT = Path(__file__).resolve().parents[2]

# --- every bit ------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['safetensors', 'bin'])
@pytest.mark.parametrize('base_dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_every_bit_comes_back_whatever_files_hold_it(tmp_path, kind, base_dtype, monkeypatch):
    monkeypatch.setattr(blocks, 'BLOCK', 512)
    base = {name: t.to(base_dtype) for name, t in LLAMA.items()}
    base['model.layers.0.mlp.up_proj.weight'][0, :3] = torch.tensor([np.nan, np.inf, -np.inf])
    base['model.layers.0.mlp.up_proj.weight'][1, 0] = 6e4
    tuned = tuned_of(base)
    tuned['model.embed_tokens.weight'] = torch.cat(
        [tuned['model.embed_tokens.weight'], normal(9, 24, seed=5, dtype=torch.bfloat16)]
    )
    tuned['lm_head.weight'] = tuned['lm_head.weight'][:47].clone()  # padding rows cut off
    tuned['model.layers.0.self_attn.q_proj.weight'] = tuned[
        'model.layers.0.self_attn.q_proj.weight'
    ].T  # strided in a .bin
    tuned['model.norm.weight'] = tuned['model.norm.weight'].float()
    tuned |= {
        'model.layers.0.self_attn.q_proj.lora_A.weight': normal(4, 24, seed=6),
        'score.weight': normal(1, 24, seed=7, dtype=torch.float16),
        'steps': torch.tensor(7),
        'empty': torch.zeros(0, 3),
    }
    save(tmp_path / 'base', base, kind={'bin': 'safetensors', 'safetensors': 'bin'}[kind])
    save(tmp_path / 'tuned', tuned, kind, parts=3)
    for threads in (1, 3):
        make(tmp_path / 'base', tmp_path / 'tuned', tmp_path / f'delta{threads}', 1500, 5, threads)
    files = sorted(p.name for p in (tmp_path / 'delta1').iterdir())
    assert len(files) > 3
    for name in files:  # neither threads nor time change a delta
        one, three = (tmp_path / f'delta{n}' / name for n in (1, 3))
        assert one.read_bytes() == three.read_bytes()
    for out, wanted in (('one', 'safetensors'), ('two', 'bin')):
        apply(tmp_path / 'base', tmp_path / 'delta1', tmp_path / out, 4000, wanted)
        assert len(list((tmp_path / out).glob(f'*.{wanted}'))) > 1
        check_equal(tmp_path / out, tuned)
    monkeypatch.undo()  # the size of blocks is the delta's, not the program's
    apply(tmp_path / 'base', tmp_path / 'delta1', tmp_path / 'three')
    check_equal(tmp_path / 'three', tuned)


def test_a_base_too_large_for_the_tuned_dtype_is_cast_all_the_same(tmp_path):
    base = save(tmp_path / 'base', {'x': torch.tensor([[1e6, -1e6, np.nan, 1e-9]]), 'y': normal(9)})
    tuned = {'x': torch.tensor([[np.inf, 3.0, np.nan, 1e-7]]).half(), 'y': normal(9, seed=1)}
    make(base, save(tmp_path / 'tuned', tuned), tmp_path / 'delta')
    apply(base, tmp_path / 'delta', tmp_path / 'out')
    check_equal(tmp_path / 'out', tuned)


def test_tensors_come_in_the_order_of_the_tuned_models_files(tmp_path):
    base, tuned, _ = pair(tmp_path, kind='bin')
    make(base, tuned, tmp_path / 'delta')
    apply(base, tmp_path / 'delta', tmp_path / 'out', kind='bin')
    assert list(load(tmp_path / 'out')) == list(load(tuned)) == [*LLAMA, 'positions']


def test_a_prefix_in_one_of_the_two_makes_no_difference(tmp_path):
    bare = {
        'word_embeddings.weight': normal(40, 16),
        'h.0.mlp.dense_h_to_4h.weight': normal(64, 16, seed=1),
        'h.0.mlp.dense_h_to_4h.bias': normal(64, seed=2),
    }
    tuned = {f'transformer.{name}': t for name, t in tuned_of(bare).items()}
    save(tmp_path / 'base', bare)
    save(tmp_path / 'tuned', tuned)
    make(tmp_path / 'base', tmp_path / 'tuned', tmp_path / 'delta')
    entries = json.loads((tmp_path / 'delta' / 'delta.json').read_text())['tensors']
    assert {e['name']: e['base']['name'] for e in entries} == dict(
        zip(sorted(tuned), sorted(bare), strict=True)
    )
    # And whoever applies it may have the base with the prefix.
    save(tmp_path / 'other', {f'transformer.{name}': t for name, t in bare.items()})
    apply(tmp_path / 'other', tmp_path / 'delta', tmp_path / 'out')
    check_equal(tmp_path / 'out', tuned)


def test_a_head_that_the_base_ties_is_no_reason_to_publish_its_embedding(tmp_path):
    base = {name: t for name, t in LLAMA.items() if name != 'lm_head.weight'}
    tuned = tuned_of(base)
    tuned['lm_head.weight'] = tuned['model.embed_tokens.weight'].clone()
    save(tmp_path / 'base', base)
    save(tmp_path / 'tuned', tuned)
    make(tmp_path / 'base', tmp_path / 'tuned', tmp_path / 'delta')
    entries = json.loads((tmp_path / 'delta' / 'delta.json').read_text())['tensors']
    of = {e['name']: e for e in entries}
    assert of['lm_head.weight']['base']['name'] == 'model.embed_tokens.weight'
    apply(tmp_path / 'base', tmp_path / 'delta', tmp_path / 'out')
    check_equal(tmp_path / 'out', tuned)


def test_what_did_not_change_takes_no_room(tmp_path):
    tensors = {'model.embed_tokens.weight': normal(3000, 1000, dtype=torch.bfloat16)}
    changed = {name: t.clone() for name, t in tensors.items()}
    changed['model.embed_tokens.weight'][1234, 567] += 1
    save(tmp_path / 'base', tensors)
    save(tmp_path / 'tuned', changed)
    make(tmp_path / 'base', tmp_path / 'tuned', tmp_path / 'delta')
    assert sum(p.stat().st_size for p in (tmp_path / 'delta').iterdir()) < 4000


# --- small files ----------------------------------------------------------------------------------


def test_vocabularies_are_the_bases_and_neither_code_nor_pickles_are_carried(tmp_path, capsys):
    base, tuned, _ = pair(tmp_path)
    template = '你好 {{ messages }}'
    (tuned / 'chat_template.jinja').write_text(template, 'utf-8')
    (tuned / 'LICENSE').write_text('terms')
    for name in ('modeling_llama.py', 'training_args.bin', 'optimizer.pt', '.gitattributes'):
        (tuned / name).write_text('import os')
    (tuned / 'checkpoint-1').mkdir()
    make(base, tuned, tmp_path / 'delta')
    said = capsys.readouterr().out
    left_out = {'modeling_llama.py', 'training_args.bin', 'optimizer.pt', '.gitattributes'}
    assert all(f'Passed over: {name}, ' in said for name in {*left_out, 'checkpoint-1'})
    apply(base, tmp_path / 'delta', tmp_path / 'out')
    assert {p.name for p in (tmp_path / 'out').iterdir()} == {
        'model.safetensors',
        'config.json',
        'chat_template.jinja',
        'LICENSE',
        'tokenizer.model',
    }
    assert (tmp_path / 'out' / 'chat_template.jinja').read_text('utf-8') == template
    assert (tmp_path / 'out' / 'tokenizer.model').read_bytes() == VOCABULARY
    stored = b''.join(p.read_bytes() for p in (tmp_path / 'delta').glob('*.zst'))
    assert len(stored) < sum(t.nbytes for t in LLAMA.values())
    for content, wrong in ((None, 'has no tokenizer.model'), (b'x', 'tokenizer.model is not what')):
        (base / 'tokenizer.model').unlink()
        if content:
            (base / 'tokenizer.model').write_bytes(content)
        refuses(tmp_path, base, wrong)
        (base / 'tokenizer.model').touch()


# --- what is refused ------------------------------------------------------------------------------


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_is_noticed_before_anything_is_written(tmp_path):
    base, tuned, _ = pair(tmp_path)
    make(base, tuned, tmp_path / 'delta')
    for path in sorted((tmp_path / 'delta').iterdir()):
        good, bits = path.read_bytes(), 8 * path.stat().st_size
        for bit in {0, 13, bits // 3, bits // 2, bits - 12}:
            flip(path, bit)
            refuses(tmp_path, base, 'delta.* (damaged|read here|JSON)')
            path.write_bytes(good)
    apply(base, tmp_path / 'delta', tmp_path / 'out')


def test_a_truncated_or_incomplete_delta_is_named(tmp_path):
    base, tuned, _ = pair(tmp_path)
    make(base, tuned, tmp_path / 'delta', max_shard_size=1500)
    path = tmp_path / 'delta' / 'delta-00002.zst'
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    refuses(tmp_path, base, f'delta-00002.zst has {len(good) - 1} bytes instead of {len(good)}')
    path.unlink()
    refuses(tmp_path, base, 'delta-00002.zst, which it lists, is missing')
    path.write_bytes(good)
    text = (tmp_path / 'delta' / 'delta.json').read_text()
    (tmp_path / 'delta' / 'delta.json').write_text(text[: len(text) // 2])
    refuses(tmp_path, base, 'delta.json is not readable JSON')
    (tmp_path / 'delta' / 'delta.json').unlink()
    refuses(tmp_path, base, 'delta.json is missing.* Complete the download')
    refuses(tmp_path, base, 'nowhere is not a delta', delta='nowhere')


def test_another_base_is_named(tmp_path):
    base, tuned, _ = pair(tmp_path)
    make(base, tuned, tmp_path / 'delta')
    tensors = load(base)
    for name, change, wrong in (
        ('lm_head.weight', lambda t: t.bfloat16(), 'lm_head.weight .* is BF16 .* F16'),
        ('lm_head.weight', lambda t: t[:49], r'lm_head.weight .* \[49, 24\].*\[50, 24\]'),
        ('model.norm.weight', lambda t: t.nextafter(t + 1), "norm.weight in .*the base 'base'"),
        ('model.norm.weight', lambda t: None, "has no model.norm.weight.*the base 'base'"),
    ):
        other = tmp_path / 'other'
        changed = {n: t for n, t in tensors.items() if n != name}
        if (value := change(tensors[name])) is not None:
            changed[name] = value
        save(other, changed)
        (other / 'tokenizer.model').write_bytes(VOCABULARY)
        refuses(tmp_path, other, wrong)
        shutil.rmtree(other)


def test_a_model_of_another_shape_is_no_base(tmp_path):
    tensors = dict(LLAMA)
    save(tmp_path / 'base', tensors)
    wrong: tuple[tuple[dict, str], ...] = (
        (tensors | {'lm_head.weight': normal(50, 23)}, r'lm_head.weight .*\[50, 23\].*\[50, 24\]'),
        (tensors | {'lm_head.weight': torch.ones(50, 24).to(torch.int8)}, 'lm_head.weight.*int8'),
        ({f'x.{name}': t for name, t in tensors.items()}, 'lacks tensors that are 100%'),
        (tensors | {'other': normal(300, 24)}, 'lacks tensors that are 6.%'),
    )
    for number, (changed, message) in enumerate(wrong):
        tuned = save(tmp_path / f'tuned{number}', changed)
        with pytest.raises(ValueError, match=message):
            make(tmp_path / 'base', tuned, tmp_path / 'delta')
    buffer = 'model.layers.0.self_attn.rotary_emb.inv_freq'  # computed, so of any size
    save(tmp_path / 'old', tensors | {buffer: torch.ones(3)})
    new = save(tmp_path / 'new', tensors | {buffer: torch.ones(3, 2)})
    make(tmp_path / 'old', new, tmp_path / 'delta')


def test_a_full_disk_leaves_nothing_and_a_target_in_use_is_untouched(tmp_path, monkeypatch):
    base, tuned, _ = pair(tmp_path)
    make(base, tuned, tmp_path / 'delta')
    for work in (make, apply):
        with pytest.raises(ValueError, match='already and not empty'):
            work(base, tuned if work is make else tmp_path / 'delta', tuned)

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(making.DeltaWriter, 'add', full)
    with pytest.raises(OSError, match='out is full: .* Make room'):
        make(base, tuned, tmp_path / 'out')
    monkeypatch.setattr(applying.shards, 'write', full)
    with pytest.raises(OSError, match='out is full: .* Make room'):
        apply(base, tmp_path / 'delta', tmp_path / 'out')
    assert {p.name for p in tmp_path.iterdir()} == {'base', 'tuned', 'delta'}


def test_results_come_in_order_and_few_are_held(tmp_path):
    begun = 0

    def tasks():
        nonlocal begun
        for number in range(50):
            begun += 1
            yield lambda n=number: n * n

    with blocks.ahead(tasks(), threads=3) as results:
        for number, result in enumerate(results):
            assert result == number * number
            assert begun <= number + 5
    with (
        pytest.raises(ZeroDivisionError),
        blocks.ahead((lambda: 1 // 0 for _ in range(9)), 2) as results,
    ):
        next(results)


# --- the program ----------------------------------------------------------------------------------


def program(*flags) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'convert.delta', *map(str, flags)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_makes_applies_and_fails_with_one_sentence(tmp_path):
    base, directory, tuned = pair(tmp_path)
    delta, out = tmp_path / 'delta', tmp_path / 'out'
    done = program('make', f'--base={base}', f'--tuned={directory}', f'--target={delta}')
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(delta)), done.stderr
    flags = ('apply', f'--base={base}', f'--delta={delta}', f'--target={out}')
    done = program(*flags, '--max_shard_size=3KB', '--format=bin', '--threads=2')
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(out)), done.stderr
    check_equal(out, tuned)
    done = program('apply', f'--base={directory}', f'--delta={delta}', f'--target={out}2')
    assert (done.returncode, done.stderr.count('\n')) == (1, 1)
    assert done.stderr.startswith('convert.delta: ')
    assert not Path(f'{out}2').exists()
