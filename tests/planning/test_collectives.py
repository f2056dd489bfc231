"""What TPUs send each other in a step: weights are gathered, gradients reduced in parts."""

import collections
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


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['llama_7b', pytest.param('llama2_70b', marks=pytest.mark.soak)])
def test_gradients_of_a_slice_are_reduced_in_parts(preset, compilers):
    job = {'topology': 'v5e:4x8', 'preset': preset, 'layers': LAYERS, 'fields': FIELDS}
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tests/support/planned.py')],
        input=json.dumps([job]),
        env=compilers,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (facts,), architecture = json.loads(done.stdout), config.PRESETS[preset]
    specs = models.specs(models.Blueprint(architecture))
    kernels = [math.prod(s.shape[1:]) for name, s in specs.items() if name.endswith('.kernel')]
    counted = collections.Counter()
    for kind, shape, times, _ in facts['collectives']:
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
