"""Segments, bins and plans: nothing lost, nothing twice, and every batch a function of its step."""

import numpy as np
import pytest

from belle_jax.data import packing, plan, token_cache

SEQ_LEN = 32


def source(seed=0, count=200, longest=40, kinds=(token_cache.CONVERSATION,)):
    """Random conversations; token ids count up, so that each says where it comes from."""
    rng = np.random.default_rng(seed)
    masks = []
    kind = rng.choice(kinds, count)
    for text in kind == token_cache.TEXT:
        turns = []
        for _ in range(1 if text else rng.integers(1, 4)):
            turns += [False] * (0 if text else rng.integers(1, longest // 2))
            turns += [True] * rng.integers(2, longest)
        masks.append(turns)
    sizes = np.array([len(m) for m in masks])
    return token_cache.Tokens(
        key=f'{seed}',
        tokens=np.arange(1, sizes.sum() + 1, dtype=np.int32),
        trained=np.concatenate([np.array(m, bool) for m in masks]),
        bounds=np.concatenate([[0], np.cumsum(sizes)]),
        record=np.arange(count),
        trained_count=np.array([sum(m) for m in masks]),
        kind=kind.astype(np.uint8),
        record_hash=np.arange(count, dtype=np.uint64),
        account={},
    )


def planned(made, weight=1.0, packed=True, train_on='assistant', seq_len=SEQ_LEN):
    segments = packing.cut(made, np.arange(len(made.record)), seq_len, train_on)
    return segments, plan.plan_bins(
        made, segments, weight=weight, seq_len=seq_len, packing=packed, seed=5
    )


def make(*bins, batch_size=8, train_on='assistant', shuffled=True, seq_len=SEQ_LEN):
    return plan.Plan(tuple(bins), seq_len, batch_size, 3, train_on, shuffled, 'f')


def batches(made):
    steps = [made.batch(step) for step in range(made.steps())]
    return {k: np.concatenate([b[k] for b in steps]) for k in steps[0]}


def test_a_permutation_is_one_and_depends_on_nothing_but_its_key():
    order = packing.permutation(1000, 7, 'x')
    assert sorted(order.tolist()) == list(range(1000))
    assert not np.array_equal(order, packing.permutation(1000, 8, 'x'))
    # Written down: a resumed run needs the same order on another machine, years later.
    assert packing.permutation(8, 0, 'epoch', 1).tolist() == [7, 3, 4, 0, 5, 2, 6, 1]


@pytest.mark.parametrize('seq_len', [2, 7, 64])
def test_no_bin_overflows_and_no_segment_is_lost(seq_len):
    rng = np.random.default_rng(seq_len)
    size = rng.integers(1, seq_len + 1, 5000)
    bins = packing.pack(size, seq_len, 0)
    load = np.bincount(bins, size)
    assert load.max() <= seq_len and load.min() > 0 and len(bins) == len(size)
    assert packing.pack(np.zeros(0, np.int64), seq_len, 0).tolist() == []


def test_packing_is_about_as_tight_as_best_fit_decreasing():
    rng = np.random.default_rng(0)
    size = np.minimum(rng.lognormal(4.5, 0.8, 3000).astype(int) + 2, 512)
    free: list[int] = []
    for n in sorted(size.tolist(), reverse=True):  # the textbook's best fit
        fitting_bins = [i for i, f in enumerate(free) if f >= n]
        if fitting_bins:
            best = min(fitting_bins, key=free.__getitem__)
            free[best] -= n
        else:
            free.append(512 - n)
    mine = int(packing.pack(size, 512, 0).max()) + 1
    assert mine <= 1.01 * len(free)
    assert size.sum() / (mine * 512) > 0.97


def test_segments_of_one_length_are_mixed_by_the_seed():
    size = np.full(100, 10)
    first, second = (packing.pack(size, 20, seed) for seed in (0, 1))
    assert not np.array_equal(first, second)
    assert np.bincount(first).tolist() == [2] * 50


def kept(mask, seq_len):
    stretches, reason = packing.truncate(np.array(mask, bool), seq_len)
    return [i for start, stop in stretches for i in range(start, stop)], reason


def test_truncation_leaves_out_later_turns_then_the_prompts_middle_then_the_answers():
    mask = [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4  # two turns of 8
    assert kept(mask, 15) == (list(range(8)), 'later_turns_left_out')
    assert kept(mask, 8) == (list(range(8)), 'later_turns_left_out')
    mask = [0] * 10 + [1] * 4
    assert kept(mask, 10) == ([0, 1, 2, 7, 8, 9, 10, 11, 12, 13], 'prompt_shortened')
    mask = [0] * 2 + [1] * 20
    assert kept(mask, 10) == ([0, 1, 2, 3, 4, 5, 6, 7, 20, 21], 'answer_shortened')
    mask = [0] * 20 + [1] * 20
    # The prompt keeps a quarter of the row.
    assert kept(mask, 12) == ([0, 1, 19, *range(20, 27), 38, 39], 'answer_shortened')


@pytest.mark.parametrize('seed', range(5))
def test_every_trained_answer_keeps_its_end(seed):
    made = source(seed, longest=80)
    segments, _ = planned(made)
    starts, ends = segments.first[:-1], segments.first[1:]
    assert segments.size.max() <= SEQ_LEN and segments.counts['answer_shortened'] > 5
    for first, stop in zip(starts, ends):
        ids = plan.spans(segments.start[first:stop], segments.length[first:stop])
        mask = made.trained[ids]
        turn_ends = ids[mask & ~np.append(mask[1:], False)]
        following = np.append(made.trained, False)[turn_ends + 1]
        is_last = np.isin(turn_ends + 1, made.bounds)
        assert len(turn_ends) and np.all(~following | is_last)
        assert mask[-1]  # a segment ends with an answer's end


def test_rows_with_nothing_to_learn_are_dropped_and_counted():
    made = source()
    made.trained[made.bounds[3] : made.bounds[4]] = False
    made.trained_count[3] = 0
    segments, _ = planned(made)
    assert segments.counts['nothing_to_learn'] == 1 and segments.counts['kept'] == 199
    assert planned(made, train_on='all')[0].counts['kept'] == 200


def test_texts_are_split_so_that_each_token_but_the_first_is_learnt_once():
    made = source(kinds=(token_cache.TEXT,), longest=150)
    segments, bins = planned(made)
    assert segments.counts['texts_split'] > 100 and 'tokens_left_out' not in segments.counts
    got = batches(make(bins).until(1))
    targets = np.sort(got['targets'][got['weights'] > 0])
    expected = np.setdiff1d(made.tokens, made.tokens[made.bounds[:-1]])
    assert np.array_equal(targets, expected)
    assert segments.trained == len(expected)


@pytest.mark.parametrize('packed', [True, False])
@pytest.mark.parametrize('train_on', ['assistant', 'all'])
def test_an_epoch_teaches_every_kept_token_once(packed, train_on):
    made = source(longest=20, count=400, kinds=(0, 0, 1))
    segments, bins = planned(made, packed=packed, train_on=train_on, seq_len=64)
    counts = segments.counts
    assert counts.get('texts_split', 0) == 0 and counts['later_turns_left_out'] > 0
    got = batches(make(bins, train_on=train_on, seq_len=64).until(1))
    ids = plan.spans(segments.start, segments.length)
    seen = got['tokens'][got['segment_ids'] > 0]
    assert np.array_equal(np.sort(seen), np.sort(made.tokens[ids]))
    assert len(np.unique(seen)) == len(seen) == segments.size.sum()
    assert got['weights'].sum() == segments.trained
    firsts = made.tokens[made.bounds[:-1]]
    learnt = made.tokens[ids][made.trained[ids] | (train_on == 'all')]
    learnt = np.setdiff1d(learnt, firsts)
    assert np.array_equal(np.sort(got['targets'][got['weights'] > 0]), np.sort(learnt))


def test_arrays_of_a_batch_agree_with_each_other():
    made = source(3, longest=80)
    got = batches(make(planned(made)[1]).until(1))
    tokens, segments, positions = got['tokens'], got['segment_ids'], got['positions']
    assert {k: v.dtype.name for k, v in got.items()} == {
        'tokens': 'int32',
        'targets': 'int32',
        'weights': 'float32',
        'segment_ids': 'int32',
        'positions': 'int32',
    }
    for row in range(len(tokens)):
        at = 0
        for number in range(1, segments[row].max() + 1):
            here = np.flatnonzero(segments[row] == number)
            assert np.array_equal(here, np.arange(at, at + len(here)))  # in order, no holes
            assert np.array_equal(positions[row, here], np.arange(len(here)))
            assert np.array_equal(got['targets'][row, here[:-1]], tokens[row, here[1:]])
            assert got['targets'][row, here[-1]] == 0 and got['weights'][row, here[-1]] == 0
            # Where tokens do not follow each other there is a gap, which is not learnt across.
            gap = np.diff(tokens[row, here]) != 1
            assert not got['weights'][row, here[:-1]][gap].any()
            at += len(here)
        assert not tokens[row, at:].any() and not got['weights'][row, at:].any()


def test_epochs_differ_straddle_batches_and_pad_only_the_end():
    made = source(longest=10)
    bins = planned(made, seq_len=64)[1]
    whole = make(bins, seq_len=64)
    rows = whole.rows_per_epoch
    assert rows % 8, 'the test needs an epoch that does not fill its last batch'
    two = whole.until(2)
    assert two.steps() == -(-2 * rows // 8) == whole.steps(2)
    got = batches(two)['tokens']
    assert np.array_equal(np.sort(got[:rows], 0), np.sort(got[rows : 2 * rows], 0))
    assert not np.array_equal(got[:rows], got[rows : 2 * rows])
    assert not got[2 * rows :].any() and got[: 2 * rows].any(1).all()
    # Without an end the next epoch goes on where the padding was.
    assert whole.batch(two.steps() - 1)['tokens'].any(1).all()


def test_a_batch_is_a_function_of_the_step_and_of_its_rows_alone():
    bins = [planned(source(s), weight=w)[1] for s, w in ((0, 1.0), (1, 0.5))]
    one, other = make(*bins), make(*bins)
    backwards = [other.batch(step) for step in reversed(range(40))][::-1]
    for step in range(40):
        whole = one.batch(step)
        for name, value in whole.items():
            assert np.array_equal(value, backwards[step][name])
            halves = [one.batch(step, rows)[name] for rows in ([0, 1, 2], range(3, 8))]
            assert np.array_equal(value, np.concatenate(halves))
        assert np.array_equal(one.batch(step, [5])['tokens'], whole['tokens'][5:6])


def test_a_source_of_weight_w_passes_w_times_an_epoch():
    sources = [source(s) for s in range(3)]
    weights = (1.0, 2.5, 0.25)
    # Ids that tell the sources apart.
    sources = [
        token_cache.Tokens(**{**vars(s), 'tokens': s.tokens + 100_000 * i})
        for i, s in enumerate(sources)
    ]
    bins = [planned(s, weight=w)[1] for s, w in zip(sources, weights)]
    made = make(*bins)
    assert made.rows_per_epoch == sum(round(w * len(b)) for w, b in zip(weights, bins))
    for epochs in (1, 4):
        tokens = batches(made.until(epochs))['tokens']
        for i, (part, weight) in enumerate(zip(bins, weights)):
            heads = part.source.tokens[part.start[part.first[:-1]]]
            firsts, counts = np.unique(tokens[:, 0], return_counts=True)
            mine = dict(zip(firsts.tolist(), counts.tolist()))
            times = [mine.get(int(h), 0) for h in heads]
            assert sum(times) == epochs * round(weight * len(part))
            # Over whole rounds every row comes equally often (up to the rounding of one part).
            assert max(times) - min(times) <= (1 if weight % 1 else 0), (i, epochs)


def test_validation_keeps_its_order():
    made = make(planned(source())[1], shuffled=False).until(1)
    assert np.array_equal(made._make_epoch(0)[1], np.arange(made.rows_per_epoch))
    with pytest.raises(ValueError, match='a plan without a limit has no last step'):
        make(planned(source())[1]).steps()
