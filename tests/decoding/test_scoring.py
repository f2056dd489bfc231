"""Scoring: continuations of contexts, read whole or from a shared cache, against float64."""

import dataclasses

import jax
import numpy as np
import pytest

import tiny
from belle_jax import config, models, sharding
from belle_jax.decoding import scoring

families = pytest.mark.parametrize('family', ['llama', 'bloom'])


def model(family, **changes):
    changes = {'init_std': 0.3, 'layers': 2, **changes}
    architecture = dataclasses.replace(tiny.FAMILIES[family], **changes)
    return models.build(models.Blueprint(architecture), tiny.params(architecture))


def pairs(*sizes, seed=0):
    """For each (context, continuations) as many pairs, of a context and what follows."""
    rng = np.random.default_rng(seed)
    made = []
    for context, continuations in sizes:
        tokens = rng.integers(0, 300, context).tolist()
        made += [(tokens, rng.integers(0, 300, size).tolist()) for size in continuations]
    return made


def by_hand(decoder, pair):
    """The sum in float64 of the logits of one text, and which tokens greedy decoding takes."""
    context, continuation = pair
    text = np.zeros((1, 64), np.int32)  # one shape; what comes later is never read
    text[0, : len(context) + len(continuation)] = [*context, *continuation]
    logits = np.asarray(forward(decoder)(text), np.float64)[0]
    rows = logits[len(context) - 1 : len(context) + len(continuation) - 1]
    top = rows.max(-1)
    logs = rows - (top + np.log(np.exp(rows - top[:, None]).sum(-1)))[:, None]
    return logs[np.arange(len(rows)), continuation].sum(), rows.argmax(-1).tolist()


FORWARD = {}


def forward(decoder):
    return FORWARD.setdefault(id(decoder), (decoder, jax.jit(decoder.__call__)))[1]


# Alone, of one token each, sharing a context, too many for a batch, longer than their context.
SIZES = [(9, [4]), (20, [1, 1, 1]), (17, [3, 1, 5, 2]), (30, [2] * 11), (3, [6, 5]), (1, [1])]


@families
@pytest.mark.parametrize('batch_size', [1, 8])
def test_continuations_are_as_likely_as_in_float64(family, batch_size):
    decoder, asked = model(family), pairs(*SIZES)
    found = scoring.likelihoods(decoder, asked, batch_size=batch_size)
    for pair, got in zip(asked, found, strict=True):
        total, greedy = by_hand(decoder, pair)
        assert got.total == pytest.approx(total, rel=2e-6, abs=2e-6)
        assert got.greedy == (greedy == pair[1])
