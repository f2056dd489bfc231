"""Fifty steps of ours against transformers and torch, from the same weights on the same batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax import config, models
from belle_jax.runs.load import read_architecture
from belle_jax.training import optim
from belle_jax.training.objectives import NextToken
from belle_jax.training.step import make_step
from loaded import load_parameters

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
torch_steps = pytest.importorskip('torch_steps')
pytestmark = pytest.mark.parity

STEPS = 50
OPTIM = config.Optim(
    learning_rate=1e-3,
    warmup_ratio=0.1,
    schedule='cosine',
    weight_decay=0.1,
    beta1=0.8,
    beta2=0.95,
    eps=1e-7,
    clip_norm=0.5,
)


def their_losses(model):
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        small = name.endswith('bias') or 'norm' in name or '.ln_f.' in name
        (plain if small else decayed).append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {'params': decayed, 'weight_decay': OPTIM.weight_decay},
            {'params': plain, 'weight_decay': 0},
        ],
        lr=OPTIM.learning_rate,
        betas=(OPTIM.beta1, OPTIM.beta2),
        eps=OPTIM.eps,
    )
    schedule = transformers.get_scheduler('cosine', optimiser, 5, STEPS)
    yield from torch_steps.losses(
        model, torch_steps.batches(STEPS), optimiser, schedule, OPTIM.clip_norm
    )


@pytest.mark.parametrize('family', ['llama', 'bloom'])
def test_fifty_losses_are_those_of_transformers_and_torch(family, tmp_path):
    model = torch_steps.model(family)
    model.save_pretrained(tmp_path)
    architecture = read_architecture(tmp_path)
    params = {n: jnp.asarray(p) for n, p in load_parameters(tmp_path, architecture).items()}
    blueprint = models.Blueprint(architecture)
    optimiser = optim.make(OPTIM, STEPS, models.specs(blueprint))
    step = jax.jit(make_step(blueprint, models.Execution(), NextToken(), optimiser, seed=0))
    state, losses = optimiser.init(params), []
    for number, batch in enumerate(torch_steps.batches(STEPS)):
        batch = {k: v[None] for k, v in batch.items()}
        (params, state), metrics = step(params, {}, state, batch, np.int32(number))
        losses.append(float(metrics['loss']))
    np.testing.assert_allclose(losses, list(their_losses(model)), rtol=1e-4)
    assert losses[-1] < losses[0] - 0.05
