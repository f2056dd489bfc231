"""What TPUs send each other in a step: weights are gathered, gradients reduced in parts."""

import collections
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from belle_jax import config, models
from belle_jax.planning.program import arrays

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 2
CYCLES = {'llama_7b': 0.0846}  # billions in fusions, of two layers, by the compiler's estimate
FIELDS = {'batch': {'size': 32}, 'data': {'seq_len': 2048}, 'model': {'remat': 'dots'}}


def planned(job, compilers):
    """The facts of a plan."""
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tests/support/planned.py')],
        input=json.dumps([job]),
        env=compilers,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)[0]


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['llama_7b', pytest.param('llama2_70b', marks=pytest.mark.soak)])
def test_gradients_of_a_slice_are_reduced_in_parts(preset, compilers):
    job = {'topology': 'v5e:4x8', 'preset': preset, 'layers': LAYERS, 'fields': FIELDS}
    facts, architecture = planned(job, compilers), config.PRESETS[preset]
    specs = models.specs(models.Blueprint(architecture))
    kernels = [math.prod(s.shape[1:]) for name, s in specs.items() if name.endswith('.kernel')]
    counted = collections.Counter()
    for kind, shape, times, *_ in facts['collectives']:
        for _, sizes in arrays(shape):
            # A kernel may be padded; the table has a gather of its own, behind all layers.
            if math.prod(sizes) >= min(kernels) and architecture.padded_vocab not in sizes:
                counted[kind] += times
            assert kind != 'all-reduce' or math.prod(sizes) < min(kernels), f'{kind} of {shape}'
    if preset in CYCLES:  # 1.5 GHz; what the compiler expects may not grow unseen
        assert facts['seconds_by_part']['fusions'] * 1.5 < CYCLES[preset] * 1.05
    # Weights are gathered forward and backward; gradients are reduced once, in parts.
    found, count = (counted['all-gather'], counted['reduce-scatter']), LAYERS * len(kernels)
    assert found == (2 * count, count), facts['collectives']


SMALL = {'embed': 512, 'q_heads': 4, 'kv_heads': 4, 'mlp': 1024, 'vocab_size': 1024}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('topology', 'shape', 'rows'),
    [
        ('2xv5e:2x2', SMALL, 8),
        pytest.param('2xv5e:4x8', {}, 64, marks=pytest.mark.soak, id='2xv5e:4x8, llama_7b'),
    ],
)
def test_between_slices_goes_the_sum_of_each_devices_part_of_the_gradients_alone(
    topology, shape, rows, compilers
):
    """Each device has 1 / (devices of a slice) of them, as the sum within the slice left it."""
    fields = FIELDS | {'batch': {'size': rows}, 'mesh': {'dcn_data': 2}}
    fields['data'] = {'seq_len': 256 if shape else 2048}
    job = {'topology': topology, 'preset': 'llama_7b', 'layers': LAYERS, 'shape': shape}
    facts = planned(job | {'fields': fields}, compilers)
    inner = facts['devices'] // 2
    assert facts['mesh'] == {'data': 2, 'fsdp': inner, 'tensor': 1}
    architecture = dataclasses.replace(config.PRESETS['llama_7b'], layers=LAYERS, **shape)
    specs = models.specs(models.Blueprint(architecture)).items()
    # Products have bfloat16 gradients, tables float32 ones; norms are next to nothing.
    bytes_each = {'kernel': 2, 'table': 4}
    gradients = [math.prod(s.shape) * bytes_each.get(n.rpartition('.')[2], 0) for n, s in specs]
    beyond = [(kind, times * far) for kind, _, times, _, far in facts['collectives'] if far]
    assert {kind for kind, _ in beyond} == {'all-reduce'}
    # Of two slices each sends half and the half's sum: as much as it has.
    assert sum(far for _, far in beyond) == pytest.approx(sum(gradients) / inner, rel=0.01)
    assert facts['bytes_sent_beyond_slice'] == sum(far for _, far in beyond)
    # Rows of the embedding table are exchanged instead, by those that hold them.
    reduced = sum(gradients) - 4 * math.prod(dict(specs)['embed.table'].shape)
    parts = [times * sent for kind, _, times, sent, _ in facts['collectives'] if 'scatter' in kind]
    assert sum(parts) == pytest.approx(reduced * (inner - 1) / inner, rel=0.05)
