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
FIELDS = {'batch': {'size': 32}, 'data': {'seq_len': 2048}, 'model': {'remat': 'dots'}}


@pytest.mark.slow
def test_gradients_of_a_slice_are_reduced_in_parts(compilers):
    cases = {'llama_7b': 'v5e:4x8', 'llama2_70b': 'v5p:2x4x4'}
    jobs = [
        {'topology': topology, 'preset': preset, 'layers': LAYERS, 'fields': FIELDS}
        for preset, topology in cases.items()
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tests/support/planned.py')],
        input=json.dumps(jobs),
        env=compilers,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for preset, facts in zip(cases, json.loads(done.stdout), strict=True):
        specs = models.specs(models.Blueprint(config.PRESETS[preset]))
        of_a_layer = [
            math.prod(spec.shape[1:]) for name, spec in specs.items() if name.endswith('.kernel')
        ]
        counted = collections.Counter()
        for kind, shape, times, _ in facts['collectives']:
            if any(math.prod(sizes) in of_a_layer for _, sizes in arrays(shape)):
                counted[kind] += times
            if kind == 'all-reduce':
                largest = max(math.prod(sizes) for _, sizes in arrays(shape))
                assert largest < min(of_a_layer), f'{preset}: {kind} of {shape}'
        # Weights are gathered forward and backward; gradients once.
        count = LAYERS * len(of_a_layer)
        assert counted == {'all-gather': 2 * count, 'reduce-scatter': count}, facts['collectives']
