"""What the real compilers make of decoding: weights are read where they lie, and little else is."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from belle_jax import config, models
from belle_jax.planning.program import FREE, CompiledProgram, arrays

ROOT = Path(__file__).resolve().parents[2]
MEANWHILE = {'copy-start', 'copy-done'}  # into a TPU's fast memory, ahead of use
# topology, preset, rows, times that reading weights and cache takes (by a TPU's compiler)
CASES = [
    ('v5e:1x1', 'llama_7b', 1, 1.05),
    ('v5e:1x1', 'llama_7b', 8, 1.32),
    ('v5e:1x1', 'bloom_7b1', 8, 1.5),
    ('h200:1', 'llama_7b', 8, None),
    ('h200:1', 'bloom_7b1', 1, None),
]


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['v5e', 'h200'])
def test_no_token_copies_a_weight(kind, compilers, tmp_path):
    cases = [case for case in CASES if case[0].startswith(kind)]
    jobs = [
        {'topology': topology, 'preset': preset, 'layers': 2, 'sample': [rows, 2048]}
        for topology, preset, rows, _ in cases
    ]
    dumped = {'XLA_FLAGS': f'--xla_dump_to={tmp_path} --xla_dump_hlo_module_re=jit_advance'}
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tests/support/planned.py')],
        input=json.dumps(jobs),
        env=compilers | dumped,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for (_, preset, rows, times), facts in zip(cases, json.loads(done.stdout), strict=True):
        architecture = config.PRESETS[preset]
        cache = rows, architecture.kv_heads, 2048, architecture.head_dim
        weights = {
            math.prod(spec.shape)
            for name, spec in models.specs(models.Blueprint(architecture).for_decoding()).items()
            if name.endswith(('.kernel', '.table'))
        }
        for step in CompiledProgram(facts['text']).schedule:
            if step.instruction.opcode not in FREE | MEANWHILE:
                for dtype, sizes in {*arrays(step.instruction.shape)} - {('bf16', cache)}:
                    made = f'{step.instruction.name} makes {dtype}{sizes}'
                    assert math.prod(sizes) not in weights, made
        if times:
            assert facts['seconds'] <= times * facts['seconds_to_read'], (preset, facts)
    if kind == 'h200':  # all kernels of a token are one graph, launched at once
        for path in tmp_path.glob('*thunk_sequence_after_thunk_passes.txt'):
            condition, body = path.read_text().split('  body:\n')
            graphs = re.findall(r'^    \d+: (\w+)', body, re.MULTILINE)
            assert graphs == ['kCommandBuffer'], graphs
        assert condition
