"""What the real TPU and GPU compilers make of the step of 7B models, without such a device."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from belle_jax.config import PRESETS
from belle_jax.planning import compiling
from belle_jax.planning.program import CompiledProgram, arrays, loop_collectives

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 10**9
# topology, recipe, preset, rows of a micro-batch over all devices, memory of a device, billions of
# cycles in fusions by the compiler's estimate (a twentieth more fails), further flags
CASES = {
    'llama on v5e-16': ('v5e:4x4', 'pretrain:llama', 'llama_7b', 16, 16, 1.204),
    # BLOOM's table is a seventh of the model: split two ways, its gradient fits beside the rest.
    'bloom on v5e-16': (
        *('v5e:4x4', 'sft_bloom:7b1', 'bloom_7b1', 16, 16, 0.698),
        '--config.mesh.tensor=2',
    ),
    'llama on one H200': ('h200:1', 'pretrain:llama', 'llama_7b', 2, 141, 0),
    'bloom on one H200': ('h200:1', 'sft_bloom:7b1', 'bloom_7b1', 2, 141, 0),
    'llama on eight H200': ('h200:8', 'pretrain:llama', 'llama_7b', 32, 141, 0),
    'bloom on eight H200': ('h200:8', 'sft_bloom:7b1', 'bloom_7b1', 64, 141, 0),
}
# On many chips they take the compilers a minute each; test_collectives has such a step.
SHORT = ('llama on one H200', 'bloom on one H200')
SOAKED = [pytest.param(case, marks=pytest.mark.soak) for case in CASES if case not in SHORT]


@pytest.mark.slow
@pytest.mark.parametrize('case', [*SHORT, *SOAKED])
def test_the_step_of_a_7b_model_compiles_and_fits(case, compilers, tmp_path):
    topology, recipe, preset, rows, memory, cycles, *flags = CASES[case]
    command = [
        *(sys.executable, '-m', 'belle_jax.plan', f'--config={recipe}', f'--topology={topology}'),
        *('--config.model.source=', f'--config.model.preset={preset}'),
        *(f'--config.batch.size={rows}', f'--output={tmp_path}/plan.json', *flags),
        f'--program={tmp_path}/program.txt',
    ]
    done = subprocess.run(command, cwd=ROOT, env=compilers, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (facts,) = json.loads((tmp_path / 'plan.json').read_text())
    print(done.stdout)
    text = (tmp_path / 'program.txt').read_text()
    program, architecture = CompiledProgram(text), PRESETS[preset]

    assert facts['fits'] and facts['bytes_per_device'] < memory * GIGABYTE
    length, tensor = facts['seq_len'], facts['mesh']['tensor']
    shard = architecture.padded_vocab // tensor
    local_logits = rows // facts['mesh']['fsdp'] * length * shard
    for dtype, sizes in {*arrays(text)}:
        assert sizes.count(length) < 2, f'{dtype}{sizes} has every query with every key'
        if shard in sizes and architecture.embed not in sizes:
            assert math.prod(sizes) < local_logits, f'{dtype}{sizes} is as large as the full logits'
    for collective in loop_collectives(program):
        for _, sizes in arrays(collective.shape):
            moves_table = {architecture.padded_vocab, shard} & set(sizes)
            assert not moves_table, f'{collective.name} moves the table in every turn of a loop'
    assert facts['warnings'] == []
    if topology.startswith('h200'):
        assert 'cudnn' in text and 'seconds' not in facts
    else:
        assert 'tpu_custom_call' in text
        # 1.5 GHz; what the compiler expects may not grow unseen.
        assert facts['seconds_by_part']['fusions'] * 1.5 < cycles * 1.05
        assert 'a step ' in done.stdout and ' of peak' in done.stdout


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        ('--topology=v9:4', '--topology=v9:4 is not a chip with its number'),
        ('--topology=v5e', 'is not a chip with its number'),
        ('--topology=v5e:4x4 --config.model.source=mine/model', 'its name is that of no model'),
        ('--topology=v5e:4x4', '.ci/compilers FOLDER installs it'),
        ('--topology=h200:1', '.ci/compilers FOLDER installs it'),
        ('', '--topology is missing'),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(flags, said):
    command = [sys.executable, '-m', 'belle_jax.plan', '--config=sft_llama:7b', *flags.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert done.stderr.count('\n') == 1


class Refused:
    """Stands for a traced program that a TPU's compiler refuses in these words."""

    def __init__(self, words):
        self._words = words

    def lower(self, lowering_platforms):
        return self

    def compile(self, compiler_options):
        raise jax.errors.JaxRuntimeError(f'RESOURCE_EXHAUSTED: {self._words}')


@pytest.mark.parametrize(
    ('words', 'total'),
    (
        ('Used 17.40G of 15.75G hbm.', 17.40),
        (  # LLaMA-7B with Muon on eight chips of v5e, by jax 0.10.2
            'Ran out of memory on HBM, the total memory required for HLO temporaries (15.96G) '
            'exceeds available HBM (15.75G).',
            15.96 + 8,
        ),
    ),
)
def test_a_program_that_does_not_fit_is_told_in_bytes(words, total):
    found = compiling.compiled(Refused(words), 'tpu', {}, held=8 * 2**30)
    assert found.text == ''
    assert found.total == pytest.approx(total * 2**30)


def test_another_failure_of_a_compiler_is_told_as_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError, match='unknown'):
        compiling.compiled(Refused('unknown'), 'tpu', {}, held=0)
