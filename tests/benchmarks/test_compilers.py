"""What the real TPU and GPU compilers make of the step of 7B models, without such a device."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GIGABYTE = 10**9
# target, recipe, preset, rows of a micro-batch over all devices, memory of a device, further flags
CASES = {
    'llama on v5e-16': ('v5e:4x4', 'pretrain.py:llama', 'llama_7b', 16, 16),
    # BLOOM's table is a seventh of the model: split two ways, its gradient fits beside the rest.
    'bloom on v5e-16': (
        'v5e:4x4',
        'sft_bloom.py:7b1',
        'bloom_7b1',
        16,
        16,
        '--config.mesh.tensor=2',
    ),
    'llama on one H200': ('h200:1', 'pretrain.py:llama', 'llama_7b', 2, 141),
    'bloom on one H200': ('h200:1', 'sft_bloom.py:7b1', 'bloom_7b1', 2, 141),
    'llama on eight H200': ('h200:8', 'pretrain.py:llama', 'llama_7b', 32, 141),
    'bloom on eight H200': ('h200:8', 'sft_bloom.py:7b1', 'bloom_7b1', 64, 141),
}


def dimensions(shape: str) -> list[int]:
    return [int(n) for n in shape[shape.index('[') + 1 : -1].split(',') if n]


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_the_step_of_a_7b_model_compiles_and_fits(case, compilers):
    target, recipe, preset, rows, memory, *flags = CASES[case]
    command = [
        *(sys.executable, '-m', 'benchmarks.compile_step', f'--config=configs/{recipe}'),
        *('--config.model.source=', f'--config.model.preset={preset}'),
        *(f'--config.batch.size={rows}', f'--target={target}', *flags),
    ]
    done = subprocess.run(command, cwd=ROOT, env=compilers, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout)
    print({k: v for k, v in facts.items() if k != 'shapes'})

    assert facts['bytes_per_device'] < memory * GIGABYTE
    length = facts['seq_len']
    local_rows = rows // facts['mesh']['fsdp']
    local_logits = local_rows * length * facts['vocab'] // facts['mesh']['tensor']
    for shape in facts['shapes']:
        sizes = dimensions(shape)
        assert sizes.count(length) < 2, f'{shape} has every query with every key'
        if facts['vocab'] // facts['mesh']['tensor'] in sizes and facts['embed'] not in sizes:
            count = 1
            for n in sizes:
                count *= n
            assert count < local_logits, f'{shape} is as large as the full logits'
    vocab_sizes = {facts['vocab'], facts['vocab'] // facts['mesh']['tensor']}
    for collective in facts['loop_collectives']:
        for shape in collective.split()[1:]:
            moves_table = vocab_sizes & set(dimensions(shape))
            assert not moves_table, f'{collective} moves the table in every turn of a loop'
    assert facts['rematerialisation_warnings'] == []
    if target.startswith('h200'):
        assert any('cudnn' in kernel for kernel in facts['kernels'])
    else:
        assert 'tpu_custom_call' in facts['kernels']
