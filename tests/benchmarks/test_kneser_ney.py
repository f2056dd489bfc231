"""The n-gram bar: probabilities that sum to one, equal to a plain program's."""

import collections
import math

import numpy as np
import pytest

from benchmarks.ngrams import KneserNey

VOCAB = 7


def text(seed, count):
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.geometric(0.35, count) - 1, VOCAB - 1)
    # Some structure, so that contexts matter.
    tokens[1::3] = (tokens[0::3][: len(tokens[1::3])] + 1) % VOCAB
    return tokens, np.arange(count) // 13


class Plain:
    """The same model with dictionaries of tuples, straight from the paper."""

    def __init__(self, tokens, segments, order):
        self.order = order
        sentences = [tokens[segments == s].tolist() for s in np.unique(segments)]
        raw = [collections.Counter() for _ in range(order + 1)]
        for sentence in sentences:
            padded = [VOCAB] * (order - 1) + sentence
            for end in range(order - 1, len(padded)):
                for k in range(1, order + 1):
                    raw[k][tuple(padded[end - k + 1 : end + 1])] += 1
        self.count = [{} for _ in range(order + 1)]
        for k in range(1, order + 1):
            before = collections.Counter(g[1:] for g in raw[k + 1]) if k < order else raw[k]
            for gram, n in raw[k].items():
                own = gram[0] == VOCAB
                self.count[k][gram] = n if own else before[gram]
        self.discounts = [[0.0]] * (order + 1)
        for k in range(1, order + 1):
            n = [max(1, sum(c == i for c in self.count[k].values())) for i in range(5)]
            y = n[1] / (n[1] + 2 * n[2])
            d = [i - (i + 1) * y * n[i + 1] / n[i] if i else 0 for i in range(4)]
            self.discounts[k] = [min(max(x, 0), i) for i, x in enumerate(d)]

    def probability(self, context, token):
        below = 1 / VOCAB
        for k in range(1, self.order + 1):
            history = tuple(context[len(context) - k + 1 :])
            after = {g: n for g, n in self.count[k].items() if g[:-1] == history}
            total = sum(after.values())
            if not total:
                continue
            d = self.discounts[k]
            mass = sum(d[min(n, 3)] for n in after.values())
            n = after.get((*history, token), 0)
            below = (n - d[min(n, 3)] + mass * below) / total
        return below


@pytest.mark.parametrize('order', [1, 2, 3, 5])
def test_it_says_what_a_plain_program_says(order):
    tokens, segments = text(0, 600)
    fast, plain = KneserNey(tokens, segments, VOCAB, order), Plain(tokens, segments, order)
    held, cuts = text(1, 60)
    expected = []
    for s in np.unique(cuts):
        context = [VOCAB] * (order - 1)
        for token in held[cuts == s].tolist():
            expected.append(-math.log(plain.probability(context, token)))
            context.append(token)
    np.testing.assert_allclose(fast.nll(held, cuts), expected, rtol=1e-12)


def test_probabilities_after_any_context_sum_to_one():
    model = KneserNey(*text(0, 600), VOCAB, 5)
    for context in ([], [0], [1, 2, 3], [6, 6, 6, 6, 6], [0, 1, 0, 1, 0, 1]):
        continuations = np.array([[*context, token] for token in range(VOCAB)])
        segments = np.repeat(np.arange(VOCAB), len(context) + 1)
        nll = model.nll(continuations.reshape(-1), segments).reshape(VOCAB, -1)[:, -1]
        assert np.exp(-nll).sum() == pytest.approx(1, abs=1e-12)


def test_longer_contexts_help_where_there_is_structure():
    tokens, segments = text(0, 6000)
    held = text(1, 600)
    losses = [KneserNey(tokens, segments, VOCAB, k).nll(*held).mean() for k in (1, 2)]
    assert losses[1] < losses[0] - 0.05
