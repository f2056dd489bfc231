"""Quantised files against transformers' floating-point model of the weights that they stand for."""

import itertools

import numpy as np
import pytest

import as_gptq
import belle_jax
from as_gptq import BELLE, FAMILIES, Plan

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity

TOKENS = np.random.default_rng(3).integers(0, 300, (2, 11))
PLANS = {
    f'{bits} bits, {"symmetric" if s else "with zeros"}, {"act-order" if a else "in order"}': Plan(
        bits, group, s, a, version
    )
    for (bits, s, a), group, version in zip(
        itertools.product((2, 3, 4, 8), (True, False), (True, False)),
        itertools.cycle((32, -1, 48, 64)),
        itertools.cycle((1, 1, 2)),
        strict=False,
    )
}


def agree(model, plain):
    """Largest difference of logits from transformers' in float32, of those up to about 10."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(TOKENS)).logits.numpy()
    assert 1 < np.abs(expected).max() < 100
    np.testing.assert_allclose(np.asarray(model(TOKENS)), expected, atol=2e-4)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('plan', PLANS.values(), ids=PLANS)
def test_a_gptq_directory_is_the_model_that_its_codes_stand_for(tmp_path, family, plan):
    quantised, plain = as_gptq.publish(tmp_path, FAMILIES[family], plan)
    model = belle_jax.load_model(quantised)
    packing = model.blueprint.packing
    assert packing and packing.bits == plan.bits
    assert packing.symmetric == plan.symmetric
    assert packing.act_order == (plan.act_order and plan.group != -1)
    agree(model, plain)


@pytest.mark.parametrize('kind', ['pt', 'safetensors'])
@pytest.mark.parametrize(
    ('family', 'bits', 'group', 'twice'),
    [
        ('bloom', 4, 32, False),
        ('bloom', 8, 32, True),
        ('llama', 4, 64, False),
        ('llama', 3, -1, False),
    ],
)
def test_a_bare_file_as_belle_published_is_run_with_its_bases_settings(
    tmp_path, family, bits, group, twice, kind
):
    plan = Plan(bits, group, **BELLE)
    folder = as_gptq.belle(tmp_path / 'base', FAMILIES[family], plan, twice)
    model = belle_jax.load_model(folder, weights=folder / f'weights.{kind}')
    packing = model.blueprint.packing
    assert packing and (packing.bits, packing.group_size) == (bits, max(group, 0))
    assert not model.architecture.attention_bias or family == 'bloom'
    agree(model, folder / 'plain')
