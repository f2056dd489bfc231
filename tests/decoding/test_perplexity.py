"""Perplexity: which tokens are counted, from how much text, and what is refused."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import tiny
from belle_jax import config, models, sharding
from belle_jax.decoding.perplexity import perplexity, window

families = pytest.mark.parametrize('family', ['llama', 'bloom'])
TEXT = np.random.default_rng(3).integers(0, 300, 75)


def model(family, **changes):
    architecture = dataclasses.replace(tiny.FAMILIES[family], **changes)
    return models.build(models.Blueprint(architecture), tiny.params(architecture))


def by_hand(decoder, tokens, seq_len, stride):
    """Mean loss in float64: each token from the first window that has it and foretells it."""
    starts = list(range(0, len(tokens) - seq_len + 1, stride or seq_len))
    if stride:
        starts.append(len(tokens) - seq_len)
    pieces = np.stack([tokens[start : start + seq_len] for start in starts])
    logits = np.asarray(decoder(pieces), np.float64)
    losses = {}
    for start, piece, rows in zip(starts, pieces, logits):
        for place in range(1, seq_len):
            row = rows[place - 1]
            loss = row.max() + math.log(np.exp(row - row.max()).sum()) - row[piece[place]]
            losses.setdefault(start + place, loss)
    return sum(losses.values()) / len(losses), len(losses)


@families
@pytest.mark.parametrize(
    ('seq_len', 'stride', 'windows'),
    [(16, 0, 4), (25, 0, 3), (16, 5, 13), (16, 15, 5), (16, 1, 60), (64, 10, 3)],
)
def test_each_token_is_counted_once_as_by_hand(family, seq_len, stride, windows):
    decoder = model(family)
    found = perplexity(decoder, TEXT, seq_len, stride, batch_size=3)
    loss, tokens = by_hand(decoder, TEXT, seq_len, stride)
    assert found.tokens == tokens == (windows * (seq_len - 1) if not stride else 74)
    assert found.windows == windows
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.value == pytest.approx(math.exp(loss), rel=1e-5)
    # Far from that of no knowledge, or any count of tokens would do.
    assert abs(found.loss - math.log(300)) > 0.05


def test_how_many_windows_go_together_changes_nothing():
    decoder = model('llama')
    one, many = (perplexity(decoder, TEXT, 16, 5, batch_size=n).loss for n in (1, 64))
    assert one == pytest.approx(many, rel=1e-6)


@families
def test_a_model_on_a_mesh_gives_the_same(family):
    decoder = model(family)
    expected = perplexity(decoder, TEXT, 16, 5)
    mesh = sharding.make_mesh(config.Mesh(2, 2, 2))
    shardings = sharding.of_parameters(mesh, models.specs(decoder.blueprint))
    params = {n: jax.device_put(a, shardings[n]) for n, a in models.parameters(decoder).items()}
    found = perplexity(models.build(decoder.blueprint, params), TEXT, 16, 5)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


@pytest.mark.parametrize(
    ('tokens', 'seq_len', 'stride', 'sentence'),
    [
        (TEXT, 1, 0, '--seq_len=1: a window needs a token to foretell: at least 2.'),
        (TEXT, 16, 16, '--stride=16 must be 0, or below --seq_len=16'),
        (TEXT, 16, -1, '--stride=-1 must be 0'),
        (TEXT, 65, 0, '--seq_len=65 is more than the 64 tokens that the model reads'),
        (TEXT[:15], 16, 0, 'the text has 15 tokens, fewer than a window of --seq_len=16'),
        ([], 16, 0, 'the text has 0 tokens'),
        ([*TEXT, 300], 16, 0, 'the text has token 300 and the model knows 300'),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(tokens, seq_len, stride, sentence):
    with pytest.raises(ValueError, match=sentence):
        perplexity(model('llama'), tokens, seq_len, stride)


def test_a_loss_that_is_not_finite_names_its_window():
    decoder = model('bloom')
    table = np.array(decoder.embed.table[...])
    table[TEXT[40]] = np.nan
    decoder = models.build(
        decoder.blueprint, models.parameters(decoder) | {'embed.table': jax.numpy.asarray(table)}
    )
    with pytest.raises(ValueError, match='the loss of the window at token 0 is not finite'):
        perplexity(decoder, TEXT, 16)


def test_the_window_ends_where_the_models_context_does():
    assert window(model('llama')) == 64 and window(model('llama'), 30) == 30
    assert window(model('bloom')) == 2048  # ALiBi reads on
