"""Scoring: continuations of contexts, read whole or from a shared cache, against float64."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import tiny
from belle_jax import config, models, sharding
from belle_jax.decoding import Engine, Sampling, scoring
from belle_jax.decoding.batch import few_shapes
from belle_jax.runs.load import load_model

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


def by_hand(logits, pair):
    """The sum of log-probabilities in float64, and whether greedy decoding writes the tokens.

    Args:
        logits: Of the text, [T, V].
        pair: Its context and continuation.
    """
    context, continuation = pair
    rows = np.asarray(logits, np.float64)[len(context) - 1 :][: len(continuation)]
    top = rows.max(-1)
    logs = rows - (top + np.log(np.exp(rows - top[:, None]).sum(-1)))[:, None]
    greedy = rows.argmax(-1).tolist() == list(continuation)
    return logs[np.arange(len(rows)), continuation].sum(), greedy


def assert_as_by_hand(decoder, asked, found):
    # One shape: what comes later is never read.
    texts = np.zeros((len(asked), 64), np.int32)
    for row, (context, continuation) in enumerate(asked):
        texts[row, : len(context) + len(continuation)] = [*context, *continuation]
    for logits, pair, got in zip(jax.jit(decoder.__call__)(texts), asked, found, strict=True):
        total, greedy = by_hand(logits, pair)
        assert got.total == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert got.greedy == greedy


# Alone, of one token each, sharing a context, too many for a batch, longer than their context.
SIZES = [(9, [4]), (20, [1, 1, 1]), (17, [3, 1, 5, 2]), (30, [2] * 11), (3, [6, 5]), (1, [1])]


@pytest.mark.parametrize(('family', 'batch_size'), [('llama', 1), ('llama', 8), ('bloom', 8)])
def test_continuations_are_as_likely_as_in_float64(family, batch_size):
    decoder, asked = model(family), pairs(*SIZES)
    found = scoring.likelihoods(decoder, asked, batch_size=batch_size)
    assert_as_by_hand(decoder, asked, found)


@families
def test_greedy_is_what_greedy_decoding_writes(family):
    """Its own answer, alone and beside others of the same context, and the same with one slip."""
    decoder, [(prompt, _)] = model(family), pairs((12, [1]))
    [answer] = Engine(decoder).generate([prompt], Sampling(max_new_tokens=6))
    slip = [*answer.tokens[:-1], (answer.tokens[-1] + 1) % 300]
    for asked in ([answer.tokens], [slip], [slip, answer.tokens], [slip[-1:], answer.tokens[:1]]):
        found = scoring.likelihoods(decoder, [(prompt, tokens) for tokens in asked])
        assert [one.greedy for one in found] == [t == answer.tokens[: len(t)] for t in asked]


@families
def test_a_model_on_a_mesh_gives_the_same(family):
    decoder, asked = model(family), pairs(*SIZES)
    expected = scoring.likelihoods(decoder, asked)
    mesh = sharding.make_mesh(config.Mesh(2, 2, 2))
    shardings = sharding.of_parameters(mesh, models.specs(decoder.blueprint))
    params = {n: jax.device_put(a, shardings[n]) for n, a in models.parameters(decoder).items()}
    found = scoring.likelihoods(models.build(decoder.blueprint, params), asked)
    for one, other in zip(found, expected, strict=True):
        assert one.total == pytest.approx(other.total, rel=1e-5, abs=1e-5)
        assert one.greedy == other.greedy


def test_dynamic_rope_is_set_for_context_and_continuation_together():
    """Beyond its context no two continuations read the same: nothing is shared there."""
    rope = config.Rope(kind='dynamic', theta=500.0, factor=2.0)
    decoder, asked = model('llama', rope=rope, max_position=16), pairs((14, [2, 9, 5]), (9, [3, 2]))
    for pair, got in zip(asked, scoring.likelihoods(decoder, asked), strict=True):
        text = np.array([[*pair[0], *pair[1]]], np.int32)
        total, _ = by_hand(decoder(text)[0], pair)
        assert got.total == pytest.approx(total, rel=1e-5)


def test_few_programs_serve_many_lengths():
    decoder, rng = model('llama', max_position=256), np.random.default_rng(1)
    shared = pairs(*((int(n), rng.integers(2, 20, 4)) for n in rng.integers(65, 190, 12)))
    alone = pairs(*((int(n), [int(n) % 20 + 2]) for n in rng.integers(65, 190, 40)))
    programs: Any = scoring._of_groups, scoring._of_texts
    before = [program._cache_size() for program in programs]
    scoring.likelihoods(decoder, shared + alone)
    of_groups, of_texts = (p._cache_size() - n for p, n in zip(programs, before))
    assert of_groups <= 2 and of_texts <= 2


def test_a_shape_of_few_batches_is_padded_where_that_costs_little():
    shapes = [(8, 64)] * 40 + [(8, 48)] * 3 + [(8, 32)] * 2 + [(8, 16), (4, 32)]
    assert few_shapes(shapes) == {
        (8, 64): (8, 64), (8, 48): (8, 64), (8, 32): (8, 32), (8, 16): (8, 32), (4, 32): (8, 32)
    }  # fmt: skip
    assert few_shapes([(8, 64), *[(8, 48)] * 16])[8, 48] == (8, 48)
    by_columns = few_shapes([(64, 4), (64, 2), (64, 2), (32, 2), (32, 2)], lambda s: s[0] + s[1])
    assert by_columns == {(64, 4): (64, 4), (64, 2): (64, 4), (32, 2): (32, 2)}


@pytest.mark.parametrize(
    ('wrong', 'sentence'),
    [
        (([], [3]), 'the context of text 1 has no tokens'),
        (([3], []), 'the continuation of text 1 has no tokens'),
        (([3], [300]), 'text 1 has token 300 and the model knows 300'),
        (([-1], [3]), 'text 1 has token'),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        scoring.likelihoods(model('llama'), [([1], [2]), wrong])


def test_a_score_that_is_not_finite_names_its_text():
    decoder = model('bloom')
    table = np.array(decoder.embed.table[...])
    table[7] = np.nan
    broken = models.parameters(decoder) | {'embed.table': jax.numpy.asarray(table)}
    with pytest.raises(ValueError, match='the log-probability of text 0 is not finite'):
        scoring.likelihoods(models.build(decoder.blueprint, broken), [([1, 7], [2])])


@pytest.mark.parity
@families
def test_continuations_are_as_likely_as_to_transformers(family, tmp_path):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    tiny.write_model(tmp_path / 'model', family=family)
    asked = pairs(*SIZES, seed=4)
    found = scoring.likelihoods(load_model(tmp_path / 'model'), asked)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'model').double()
    for pair, got in zip(asked, found, strict=True):
        with torch.no_grad():
            logits = theirs(torch.tensor([[*pair[0], *pair[1]]])).logits[0]
        total, greedy = by_hand(logits.numpy(), pair)
        assert got.total == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert got.greedy == greedy
