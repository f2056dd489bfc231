"""convert gptq, from a directory of a model to one that runs."""

import json
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import programs
import tiny
from belle_jax import load_model
from belle_jax.data import marked_text, tokenizer
from belle_jax.decoding.perplexity import perplexity

ROOT = Path(__file__).resolve().parents[2]
TEXT = 'What is read while a model is quantised should be like what it is for. '
FLAGS = ('--samples=6', '--seq_len=48', '--group_size=32')


@pytest.fixture
def folder(tmp_path):
    tiny.write_model(tmp_path / 'model')
    rng = np.random.default_rng(0)
    words = [' '.join(rng.permutation(TEXT.split())) for _ in range(30)]
    (tmp_path / 'text.txt').write_text('\n'.join(words))
    return tmp_path


def start(folder, *flags, code=0, jobs=((),), devices=1):
    """Runs the program, and gives what it prints; on standard error where it fails.

    Args:
        folder: Where.
        *flags: Beside the usual ones.
        code: That it ends with.
        jobs: Further flags of each of several processes.
        devices: That each process has.
    """
    command = [sys.executable, '-m', 'convert.gptq', '--model=model', '--target=out', *FLAGS]
    if not any(flag.startswith('--calibration') for flag in flags):
        command.append('--calibration=text.txt')
    environment = {
        'PYTHONPATH': str(ROOT),
        'PATH': '',
        'JAX_PLATFORMS': 'cpu',
        'HF_HUB_OFFLINE': '1',
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    running = [
        programs.Heard([*command, *flags, *own], cwd=folder, env=environment) for own in jobs
    ]
    told = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [code] * len(jobs), told
    return told[0][bool(code)]


def fails(folder, *flags):
    """The one sentence of a refusal, which leaves nothing behind."""
    before = sorted(path.name for path in folder.iterdir())
    said = start(folder, *flags, code=1).strip().splitlines()
    assert len(said) == 1 and said[0].startswith('convert.gptq: '), said
    assert sorted(path.name for path in folder.iterdir()) == before
    return said[0]


def test_a_model_is_quantised_reported_and_runs(folder):
    said = start(folder, '--bits=4', '--table_bits=8')
    assert sorted(p.name for p in folder.iterdir()) == ['model', 'out', 'text.txt']
    report = json.loads((folder / 'out' / 'quantization_report.json').read_text())
    assert len(report['matrices']) == 14 and report['rounded'] == 0
    assert report['error_of_rounding'] < 0.7
    assert (
        f'{report["perplexity_before"]:,.4f} before, {report["perplexity_after"]:,.4f} now' in said
    )
    packing = load_model(folder / 'out').blueprint.packing
    assert packing and packing.bits == 4 and packing.tables == 8
    # The figures are those of the directories.
    words = tokenizer.load(folder / 'out')
    tokens = np.asarray(marked_text.encode(words, (folder / 'text.txt').read_text()))
    held = tokens[len(tokens) - len(tokens) // 10 :]
    for name, expected in (('model', 'perplexity_before'), ('out', 'perplexity_after')):
        found = perplexity(load_model(folder / name), held, 48)
        np.testing.assert_allclose(found.value, report[expected], rtol=2e-3)
    page = (folder / 'out' / 'quantization_report.html').read_text()
    assert 'attention.query' in page and '<polyline' in page
    settings = json.loads((folder / 'out' / 'quantize_config.json').read_text())
    assert settings['bits'] == 4 and settings['sym'] and not settings['desc_act']


@pytest.mark.soak
def test_two_processes_make_the_same_model_as_one_with_two_devices(folder):
    few = ('--noclip', '--measure=0', '--samples=4', '--seq_len=32')  # what else is compiled
    start(folder, *few, jobs=programs.job(2))
    start(folder, *few, '--devices=2', '--target=alone', devices=2)
    assert (folder / 'out.logs' / 'process-1.log').is_file()
    files = {path.name: path.read_bytes() for path in (folder / 'alone').iterdir()}
    assert files.keys() == {path.name for path in (folder / 'out').iterdir()}
    for name, held in files.items():
        if not name.startswith('quantization_report'):  # which tells how long it took
            assert (folder / 'out' / name).read_bytes() == held, name


def test_every_format_holds_the_same_model(folder):
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 250, (2, 32)))
    logits = []
    for layout in ('gptq', 'gptq_v2', 'compressed_tensors'):
        start(folder, f'--format={layout}', f'--target={layout}', '--bits=8')
        logits.append(load_model(folder / layout)(tokens))
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    (
        (('--bits=5',), '--bits=5 cannot be taken: value should be one of'),
        (('--group_size=0',), '--group_size=0: a group has at least one input'),
        (('--calibration=none.txt',), 'none.txt is neither a file here nor the name of a text'),
        (('--calibration=empty.txt',), 'empty.txt has no text'),
        (
            ('--seq_len=100000', '--calibration=short.txt'),
            'has 11 tokens to read, and one sample has',
        ),
        (('--calibration=wikitext2',), 'wikitext2'),
        (('--devices=3',), '--devices=3: this machine has 1'),
        (('--model=nowhere',), 'nowhere is neither a directory here nor a hub name'),
        (('--target=model',), '--target=model is there already and not empty'),
    ),
)
def test_a_mistake_is_told_in_one_sentence(folder, flags, sentence):
    (folder / 'empty.txt').write_text('  \n')
    (folder / 'short.txt').write_text('a short one.')
    assert sentence in fails(folder, *flags)


def test_weights_that_cannot_be_quantised_are_told_with_their_place(folder):
    path = folder / 'model' / 'model.safetensors'
    tensors = load_file(path)
    tensors['model.layers.1.mlp.up_proj.weight'][3, 5] = np.inf
    save_file(tensors, path)
    said = start(folder, code=1)
    assert 'mlp.up.kernel of layer 1 holds numbers that are not finite' in said
    path.write_bytes(path.read_bytes()[:-100])
    assert 'is truncated' in fails(folder, '--target=other')


def test_a_quantised_model_is_not_quantised_again(folder):
    start(folder)
    assert 'a quantised model is run as it is, and neither trained nor converted' in fails(
        folder, '--model=out', '--target=again'
    )


def test_finished_layers_are_those_of_the_same_settings(folder):
    path = folder / 'model' / 'model.safetensors'
    good = path.read_bytes()
    tensors = load_file(path)
    tensors['model.layers.1.mlp.up_proj.weight'][3, 5] = np.inf
    save_file(tensors, path)
    start(folder, code=1)
    path.write_bytes(good)
    said = fails(folder, '--bits=3')
    assert 'holds layers that were quantised with bits=4, and now it is 3' in said
    start(folder)
    assert not (folder / 'out.layers').exists()


def test_layers_of_another_model_in_the_same_place_are_not_taken(folder):
    """Nor is a finished model taken for one of other settings, because layers lie beside it."""
    path = folder / 'model' / 'model.safetensors'
    tensors = load_file(path)
    good = tensors['model.layers.1.mlp.up_proj.weight'].copy()
    tensors['model.layers.1.mlp.up_proj.weight'][3, 5] = np.inf
    save_file(tensors, path)
    start(folder, code=1)
    tensors['model.layers.1.mlp.up_proj.weight'] = good
    tensors['model.norm.weight'] *= 2
    save_file(tensors, path)
    assert 'holds layers that were quantised with weights=' in fails(folder)
    (folder / 'out.layers').rename(folder / 'kept')
    start(folder)
    (folder / 'kept').rename(folder / 'out.layers')
    assert '--target=out is there already and not empty' in fails(folder, '--bits=3')
    start(folder)  # only what was left goes
    assert not (folder / 'out.layers').exists()
