"""Directories exchanged with GPTQModel, and with transformers, which takes GPTQ through it.

BELLE_GPTQ names a Python that has gptqmodel, optimum, transformers and compressed-tensors (in an
environment of its own). The largest differences of logits, which go up to about 10, are written to
build/gptq_exchange.json.
"""

import dataclasses
import itertools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import as_gptq
import belle_jax
from as_gptq import FAMILIES, Plan
from belle_jax.formats import gptq

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.parity, pytest.mark.slow]
GROUPS = {2: 32, 3: 64, 4: 128, 8: -1}
CASES = list(itertools.product(FAMILIES, GROUPS, (True, False), (True, False)))


def name(family, bits, symmetric, act_order):
    kind = 'sym' if symmetric else 'asym'
    return f'{family}-{bits}bit-{GROUPS[bits]}g-{kind}{"-act_order" if act_order else ""}'


@pytest.fixture(scope='module')
def exchange(tmp_path_factory):
    """The folder with all directories, and what each program says of them."""
    python = os.environ.get('BELLE_GPTQ')
    if not python:
        pytest.skip('BELLE_GPTQ names no Python that has gptqmodel')
    work = tmp_path_factory.mktemp('exchange')
    tokens = np.random.default_rng(1).integers(0, 300, (2, 19))
    np.save(work / 'tokens.npy', tokens)
    wide = {'embed': 128, 'head_dim': 32, 'mlp': 512, 'vocab_size': 320}
    shapes = {f: dataclasses.replace(a, **wide) for f, a in FAMILIES.items()}
    for family, shape in shapes.items():
        _, plain = as_gptq.tensors(shape, Plan())
        halves = {n: a.astype(np.float16) for n, a in plain.items()}
        as_gptq.write(work / 'plain' / family, shape, halves, {})
    cases = {
        name(*case): {
            'family': case[0],
            'settings': {
                'bits': case[1],
                'group_size': GROUPS[case[1]],
                'sym': case[2],
                'desc_act': case[3],
                'act_group_aware': not case[3] and GROUPS[case[1]] > 0,
            },
        }
        for case in CASES
    }
    (work / 'cases.json').write_text(json.dumps(cases))
    run(python, 'quantise', work)
    for family, bits, symmetric, act_order in CASES:
        plan = Plan(bits, GROUPS[bits], symmetric, act_order, 1)
        folder = work / 'packed' / name(family, bits, symmetric, act_order)
        quantised, _ = as_gptq.publish(folder, shapes[family], plan)
        # GPTQModel takes version 1 with zeros from itself alone.
        layout = 'gptq' if symmetric and not act_order else 'gptq_v2'
        gptq.write(gptq.open(quantised), work / 'ours' / folder.name, layout)
        if bits in (4, 8) and not act_order:
            out = work / 'compressed' / folder.name
            gptq.write(gptq.open(quantised), out, 'compressed_tensors')
    run(python, 'answer', work)
    found = {}
    for side in ('ours', 'theirs', 'compressed'):
        for folder in sorted(p for p in (work / side).iterdir() if p.is_dir()):
            ours = np.asarray(belle_jax.load_model(folder)(tokens))
            assert np.abs(ours).max() > 1
            programs = ('gptqmodel', 'transformers')
            if side == 'compressed':
                programs = (
                    ('compressor', 'transformers') if '-sym' in folder.name else ('compressor',)
                )
            for program in programs:
                out = folder.with_name(f'{folder.name}.{program}.npy')
                found[f'{side}/{folder.name}', program] = (
                    float(np.abs(np.load(out) - ours).max())
                    if out.is_file()
                    else out.with_suffix('.txt').read_text()
                )
    (ROOT / 'build').mkdir(exist_ok=True)
    table = {f'{n} in {program}': value for (n, program), value in found.items()}
    (ROOT / 'build' / 'gptq_exchange.json').write_text(json.dumps(table, indent=1))
    return found


def run(python, what, work):
    script = Path(as_gptq.__file__).with_name('gptqmodel_side.py')
    done = subprocess.run(
        [python, script, what, work], cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:] + done.stdout[-2000:]


@pytest.mark.parametrize('case', CASES, ids=[name(*case) for case in CASES])
def test_ours_load_in_theirs_and_theirs_in_ours(exchange, case):
    said = {k: v for k, v in exchange.items() if k[0].partition('/')[2] == name(*case)}
    assert len(said) == 4 + (1 + case[2] if case[1] in (4, 8) and not case[3] else 0)
    for where, difference in said.items():
        assert isinstance(difference, float) and difference < 1e-3, (where, difference)
