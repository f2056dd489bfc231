"""Choosing the next token: greedy, drawn, each row by its own settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax.decoding import sampling
from belle_jax.decoding.sampling import Sampling

VOCAB = 300


def logits(rows, seed=0, scale=2.0):
    return np.random.default_rng(seed).normal(0, scale, (rows, VOCAB)).astype(np.float32)


def choose(logits, settings, rows=None, position=0):
    count = len(logits)
    plan = sampling.plan_filters(settings, VOCAB)
    values = sampling.filters(settings, range(count) if rows is None else rows)
    return np.asarray(sampling.choose(logits, values, plan, np.full(count, position)))


def test_temperature_zero_takes_the_likeliest_token_whatever_the_other_filters():
    x = logits(20)
    one = Sampling(temperature=0, top_k=3, top_p=0.1, min_p=0.9)
    np.testing.assert_array_equal(choose(x, [one] * 20), x.argmax(-1))


def test_a_drawn_token_depends_on_seed_row_and_position_and_on_nothing_else():
    x = np.tile(logits(1, scale=0.5), (6, 1))
    warm = Sampling(temperature=1.0, seed=5)
    first = choose(x, [warm] * 6)
    assert len(set(first)) > 1  # rows differ
    # The same row among other neighbours, at another place of the batch.
    other = np.concatenate([logits(3, seed=9), x[:1]])
    assert choose(other, [warm] * 4, rows=[70, 80, 90, 2])[3] == first[2]
    moved = [choose(x, [warm] * 6, position=p) for p in range(5)]
    assert len({tuple(m) for m in moved}) == 5
    reseeded = choose(x, [dataclasses.replace(warm, seed=6)] * 6)
    assert tuple(reseeded) != tuple(first)


def test_greedy_and_drawn_rows_share_a_batch_without_touching_each_other():
    x = logits(4)
    warm = Sampling(temperature=0.9, top_p=0.9, seed=1)
    mixed = choose(x, [Sampling(), warm, Sampling(), warm])
    alone = choose(x, [warm] * 4)
    np.testing.assert_array_equal(mixed[[1, 3]], alone[[1, 3]])
    np.testing.assert_array_equal(mixed[[0, 2]], x.argmax(-1)[[0, 2]])


def test_draws_follow_the_filtered_distribution():
    x = np.tile(logits(1), (4000, 1))
    one = Sampling(temperature=0.7, top_k=8, top_p=0.95)
    drawn = choose(x, [one] * 4000)
    heated = x[0] / 0.7
    order = np.argsort(-heated)[:8]
    p = np.exp(heated[order] - heated[order[0]])
    p /= p.sum()
    kept = np.cumsum(p) - p < 0.95
    p = np.where(kept, p, 0) / p[kept].sum()
    share = np.array([(drawn == token).mean() for token in order])
    assert set(drawn) <= set(order[kept])
    # Three standard deviations of a share of 4,000 draws are at most 0.024.
    np.testing.assert_allclose(share, p, atol=0.024)


def test_neutral_values_keep_every_token_beside_rows_that_filter():
    x = logits(3)
    settings = [
        Sampling(temperature=1.0),
        Sampling(temperature=1.0, top_k=4),
        Sampling(temperature=1.0, top_p=0.5, min_p=0.2),
    ]
    plan = sampling.plan_filters(settings, VOCAB)
    assert plan.sort == VOCAB
    out = np.asarray(sampling.warp(x, sampling.filters(settings, range(3)), plan))
    np.testing.assert_array_equal(out[0], x[0])
    assert np.isfinite(out[1]).sum() == 4
    assert 1 <= np.isfinite(out[2]).sum() < VOCAB


def test_padded_logits_of_minus_infinity_never_win():
    x = logits(50, scale=0.1)
    x[:, 200:] = -np.inf
    one = Sampling(temperature=5.0, top_k=250, top_p=0.999, repetition_penalty=1.5)
    plan = sampling.plan_filters([one], VOCAB)
    values = sampling.filters([one] * 50, range(50))
    seen = np.ones((50, VOCAB), bool)
    out = sampling.process(x, values, plan, seen=seen, made=np.zeros(50), eos_ids=())
    out = sampling.warp(out, values, plan)
    assert not np.isnan(out).any()
    assert choose(x, [one] * 50).max() < 200


def test_a_greedy_program_holds_no_sort_and_no_random_numbers():
    def compiled(one):
        plan = sampling.plan_filters([one], VOCAB)
        values = sampling.filters([one], [0])
        f = jax.jit(lambda x, v: sampling.choose(x, v, plan, jnp.zeros(1, jnp.int32)))
        return str(f.trace(logits(1), values).jaxpr)

    greedy, drawn = compiled(Sampling()), compiled(Sampling(temperature=1.0, top_p=0.5))
    assert 'sort' in drawn and 'random' in drawn
    assert 'sort' not in greedy and 'random' not in greedy
    assert 'sort' not in compiled(Sampling(temperature=1.0, min_p=0.5))


def test_a_partial_sort_serves_rows_that_all_have_a_top_k():
    def width(*settings):
        return sampling.plan_filters([Sampling(temperature=1.0, **s) for s in settings], VOCAB).sort

    assert width({}) == 0
    assert width({'top_k': 30}) == 32
    assert width({'top_k': 30, 'top_p': 0.8}, {'top_k': 33}) == 64
    assert width({'top_k': 30}, {}) == VOCAB
    assert width({'top_k': 30}, {'top_p': 0.9}) == VOCAB
    assert width({'top_k': 299}) == VOCAB
    assert width({'top_k': 5000}) == 0
    assert sampling.plan_filters([Sampling(top_k=30), Sampling(top_p=0.5)], VOCAB).sort == 0


@pytest.mark.parametrize(
    'field, value',
    [
        ('max_new_tokens', 0),
        ('min_new_tokens', -1),
        ('temperature', -0.1),
        ('temperature', float('nan')),
        ('top_k', -1),
        ('top_p', 1.1),
        ('min_p', -0.5),
        ('repetition_penalty', 0.0),
        ('num_beams', 0),
        ('seed', -1),
        ('stop', ('',)),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_it(field, value):
    with pytest.raises(ValueError, match=f'{field}='):
        Sampling(**{field: value})


def test_beams_and_temperature_exclude_each_other():
    with pytest.raises(ValueError, match='num_beams=4 and temperature=0.5'):
        Sampling(num_beams=4, temperature=0.5)
