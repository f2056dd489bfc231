"""Logit filters against transformers' processors, on 1,000 random rows."""

import numpy as np
import pytest

from belle_jax.decoding import sampling

torch = pytest.importorskip('torch')
logits_process = pytest.importorskip('transformers').generation.logits_process

pytestmark = pytest.mark.parity

ROWS, VOCAB = 1000, 777


@pytest.fixture(scope='module')
def logits():
    return np.random.default_rng(7).normal(0.5, 2.5, (ROWS, VOCAB)).astype(np.float32)


@pytest.fixture(scope='module')
def seen():
    """Token ids that each row has seen, 30 of them, with repetitions."""
    return np.random.default_rng(8).integers(0, VOCAB, (ROWS, 30))


def theirs(processor, logits, seen):
    return processor(torch.from_numpy(seen), torch.from_numpy(logits)).numpy()


def column(low, high, dtype: type = np.float32, seed=0):
    """One value a row, ten different ones, so that each is its own processor of transformers."""
    values = np.linspace(low, high, 10).astype(dtype)
    return values[np.random.default_rng(seed).integers(0, 10, ROWS)]


def by_row(make, values, logits, seen):
    """What transformers says where each row has its own value."""
    out = np.empty_like(logits)
    for value in np.unique(values):
        rows = values == value
        out[rows] = theirs(make(value.item()), logits[rows], seen[rows])
    return out


def mask(seen):
    out = np.zeros((ROWS, VOCAB), bool)
    np.put_along_axis(out, seen, True, axis=1)
    return out


def test_the_repetition_penalty_equals_transformers(logits, seen):
    penalty = column(0.7, 1.9)
    want = by_row(logits_process.RepetitionPenaltyLogitsProcessor, penalty, logits, seen)
    np.testing.assert_allclose(
        sampling.penalise(logits, mask(seen), penalty), want, rtol=1e-6, atol=0
    )


def test_the_minimum_length_equals_transformers(logits, seen):
    minimum = column(0, 9, np.int32)
    made, eos = 5, [3, 700]

    def make(value):
        return logits_process.MinNewTokensLengthLogitsProcessor(30 - made, value, eos)

    got = sampling.forbid_early_end(logits, np.full(ROWS, made), minimum, tuple(eos))
    np.testing.assert_array_equal(got, by_row(make, minimum, logits, seen))


@pytest.mark.parametrize('sort', [64, VOCAB])
def test_top_k_equals_transformers(logits, seen, sort):
    top_k = column(1, 50, np.int32)
    got = sampling.keep_top(logits, top_k, np.ones(ROWS, np.float32), sort)
    want = by_row(logits_process.TopKLogitsWarper, top_k, logits, seen)
    np.testing.assert_array_equal(got, want)


def test_top_k_keeps_ties_as_transformers_does(seen):
    rounded = np.random.default_rng(9).integers(-5, 6, (ROWS, VOCAB)).astype(np.float32)
    top_k = column(1, 50, np.int32)
    want = by_row(logits_process.TopKLogitsWarper, top_k, rounded, seen)
    got = sampling.keep_top(rounded, top_k, np.ones(ROWS, np.float32), 64)
    np.testing.assert_array_equal(got, want)


def test_top_p_equals_transformers(logits, seen):
    top_p = column(0.0, 0.999)
    got = sampling.keep_top(logits, np.zeros(ROWS, np.int32), top_p, VOCAB)
    np.testing.assert_array_equal(got, by_row(logits_process.TopPLogitsWarper, top_p, logits, seen))


@pytest.mark.parametrize('sort', [64, VOCAB])
def test_top_p_after_top_k_equals_transformers(logits, seen, sort):
    top_k, top_p = column(2, 60, np.int32, seed=1), column(0.05, 1.0, seed=2)
    want = by_row(logits_process.TopKLogitsWarper, top_k, logits, seen)
    want = by_row(logits_process.TopPLogitsWarper, top_p, want, seen)
    np.testing.assert_array_equal(sampling.keep_top(logits, top_k, top_p, sort), want)


def test_min_p_equals_transformers(logits, seen):
    min_p = column(0.0, 0.6)
    np.testing.assert_array_equal(
        sampling.keep_likely(logits, min_p),
        by_row(logits_process.MinPLogitsWarper, min_p, logits, seen),
    )


def test_all_filters_together_equal_transformers_in_its_order(logits, seen):
    transformers = pytest.importorskip('transformers')
    config = transformers.GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_k=45,
        top_p=0.8,
        min_p=0.03,
        repetition_penalty=1.3,
        min_new_tokens=9,
        eos_token_id=[3, 700],
    )
    config._eos_token_tensor = torch.tensor([3, 700])
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    )
    processors = model._get_logits_processor(config, input_ids_seq_length=25, device='cpu')
    assert len(processors) == 6
    # Make end-of-sequence tokens likely: forgetting to forbid them must show.
    logits = logits.copy()
    logits[:, [3, 700]] += 8
    want = processors(torch.from_numpy(seen), torch.from_numpy(logits)).numpy()

    one = sampling.Sampling(
        temperature=0.6,
        top_k=45,
        top_p=0.8,
        min_p=0.03,
        repetition_penalty=1.3,
        min_new_tokens=9,
    )
    plan = sampling.plan_filters([one], VOCAB)
    assert plan == sampling.FilterPlan(penalty=True, minimum=True, draw=True, sort=64, min_p=True)
    values = sampling.filters([one] * ROWS, range(ROWS))
    made = np.full(ROWS, 5)
    got = sampling.process(logits, values, plan, seen=mask(seen), made=made, eos_ids=(3, 700))
    got = np.asarray(sampling.warp(got, values, plan))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    np.testing.assert_allclose(got, want, rtol=1e-6)
