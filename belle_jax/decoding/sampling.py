"""From logits to the next token: filters in transformers' order, each row with its own settings.

What a row needs is data (`Filters`, one entry a row); which filters any row needs at all is static
(`FilterPlan`), so that a greedy program holds no sort and no random numbers.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one answer is made. The defaults are greedy decoding.

    Attributes:
        max_new_tokens: The answer holds at most this many tokens.
        min_new_tokens: No end-of-sequence token before the answer has this many tokens.
        temperature: 0 takes the likeliest token; above, logits are divided by it and drawn from.
        top_k: Draw from the k likeliest tokens alone (0: all).
        top_p: Draw from the likeliest tokens that together hold this probability (1: all).
        min_p: Draw from tokens with at least this fraction of the likeliest one's probability.
        repetition_penalty: Logits of tokens seen in prompt or answer are divided by it where
            positive, multiplied where negative (1: off).
        stop: Text that ends the answer and is not part of it.
        seed: Together with a prompt's row and a token's position it decides every draw.
        num_beams: Above 1: beam search, which draws nothing.
    """

    max_new_tokens: int = 512
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    num_beams: int = 1

    def __post_init__(self):
        for name, holds, rule in (
            ('max_new_tokens', self.max_new_tokens >= 1, 'at least 1'),
            ('min_new_tokens', self.min_new_tokens >= 0, 'at least 0'),
            ('temperature', 0 <= self.temperature < float('inf'), 'at least 0 (0: greedy)'),
            ('top_k', self.top_k >= 0, 'at least 0 (0: every token)'),
            ('top_p', 0 <= self.top_p <= 1, 'between 0 and 1 (1: every token)'),
            ('min_p', 0 <= self.min_p <= 1, 'between 0 and 1 (0: every token)'),
            ('repetition_penalty', 0 < self.repetition_penalty < float('inf'), 'above 0 (1: off)'),
            ('num_beams', self.num_beams >= 1, 'at least 1'),
            ('seed', 0 <= self.seed < 2**32, 'between 0 and 2**32 - 1'),
            ('stop', all(self.stop), 'without empty strings'),
        ):
            if not holds:
                raise ValueError(f'{name}={getattr(self, name)!r} must be {rule}.')
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(
                f'num_beams={self.num_beams} and temperature={self.temperature} exclude each '
                'other: beam search draws nothing. Set temperature to 0 or num_beams to 1.'
            )


class Filters(NamedTuple):
    """The settings of a batch, one entry a row: float32, int32 or uint32 [B]."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    repetition_penalty: Array
    min_new_tokens: Array
    seed: Array
    row: Array


class FilterPlan(NamedTuple):
    """Which filters some row needs; static, so that nothing else is compiled in.

    `sort` is the number of largest logits to sort for top_k and top_p: 0 for neither, the
    vocabulary's size where a row uses top_p without top_k.
    """

    penalty: bool
    minimum: bool
    draw: bool
    sort: int
    min_p: bool


def filters(settings: Sequence[Sampling], rows: Sequence[int]) -> Filters:
    """Gathers a batch's settings into arrays.

    Args:
        settings: One for each row.
        rows: The rows' numbers, which with the seed decide their draws.
    """

    def column(name, dtype):
        return np.array([getattr(s, name) for s in settings], dtype)

    return Filters(
        **{n: column(n, np.float32) for n in ('temperature', 'top_p', 'min_p')},
        **{n: column(n, np.int32) for n in ('top_k', 'min_new_tokens')},
        repetition_penalty=column('repetition_penalty', np.float32),
        seed=column('seed', np.uint32),
        row=np.array(rows, np.uint32),
    )


def plan_filters(settings: Sequence[Sampling], vocab: int) -> FilterPlan:
    """Which filters a batch needs.

    Args:
        settings: One for each row.
        vocab: Entries of a row of logits.
    """
    drawn = [s for s in settings if s.temperature > 0]
    widths = [0]
    for s in drawn:
        if 0 < s.top_k < vocab:
            # A power of two, so that neighbouring values of k share a compiled program.
            widths.append(min(1 << (s.top_k - 1).bit_length(), vocab))
        elif s.top_p < 1:
            widths.append(vocab)
    # A row without either filter would lose its tail to a partial sort shared with its neighbours.
    narrow = all(0 < s.top_k < vocab for s in drawn)
    return FilterPlan(
        penalty=any(s.repetition_penalty != 1 for s in settings),
        minimum=any(s.min_new_tokens > 0 for s in settings),
        draw=bool(drawn),
        sort=max(widths) if narrow else vocab * (max(widths) > 0),
        min_p=any(s.min_p > 0 for s in drawn),
    )


def penalise(logits, seen, penalty):
    """Makes tokens that occurred before less likely.

    Args:
        logits: float32 [B, V].
        seen: bool [B, V], True for tokens of the prompt or the answer.
        penalty: float32 [B], 1 for none.
    Returns:
        float32 [B, V].
    Source: Keskar et al., 2019 (CTRL), section 4.1; RepetitionPenaltyLogitsProcessor.
    """
    penalty = penalty[:, None]
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def forbid_early_end(logits, made, minimum, eos_ids: tuple[int, ...]):
    """Minus infinity for end-of-sequence tokens while a row has fewer tokens than its minimum.

    Args:
        logits: float32 [B, V].
        made: int32 [B], tokens of the answer so far.
        minimum: int32 [B].
        eos_ids: Tokens that end an answer.
    """
    if not eos_ids:
        return logits
    ends = jnp.zeros(logits.shape[-1], bool).at[jnp.array(eos_ids)].set(True)
    return jnp.where(ends & (made < minimum)[:, None], -jnp.inf, logits)


def keep_top(logits, top_k, top_p, sort: int):
    """Minus infinity outside the k likeliest tokens, then outside the nucleus of mass p.

    A token is dropped where it and the less likely ones hold at most 1 - p; one always stays.
    Tokens exactly as likely as the last kept one stay too (transformers drops some of them in
    top_p, by the order of its sort).

    Args:
        logits: float32 [B, V], already divided by the temperature.
        top_k: int32 [B], 0 for every token.
        top_p: float32 [B], 1 for every token.
        sort: How many of the largest logits to sort, at least the largest k (see `FilterPlan`).
    Returns:
        float32 [B, V].
    Source: Fan et al., 2018; Holtzman et al., 2020, section 3.1; transformers' TopKLogitsWarper
        and TopPLogitsWarper.
    """
    vocab = logits.shape[-1]
    if sort < vocab:
        largest = jax.lax.top_k(logits, sort)[0]
    else:
        largest = jnp.sort(logits, axis=-1, descending=True)
    k = jnp.where(top_k == 0, vocab, top_k)[:, None]
    k_th = jnp.take_along_axis(largest, jnp.minimum(k, sort) - 1, axis=-1)
    logits = jnp.where(logits < k_th, -jnp.inf, logits)
    weights = jnp.where(largest < k_th, 0.0, jnp.exp(largest - largest[:, :1]))
    # Tokens as likely as the k-th that the sort left out: they are kept, so their mass counts.
    tied, sorted_ones = (jnp.sum(x == k_th, -1, keepdims=True) for x in (logits, largest))
    left_out = (tied - sorted_ones) * jnp.exp(k_th - largest[:, :1])
    total = jnp.sum(weights, axis=-1, keepdims=True) + left_out
    # Summed from the small end: from the large one, a tail of 0.001 would drown in rounding.
    tail = (jnp.cumsum(weights[:, ::-1], axis=-1)[:, ::-1] + left_out) / total
    kept = jnp.sum((tail > 1 - top_p[:, None]) & (largest >= k_th), axis=-1, keepdims=True)
    last = jnp.take_along_axis(largest, jnp.maximum(kept, 1) - 1, axis=-1)
    return jnp.where((logits < last) & (top_p < 1)[:, None], -jnp.inf, logits)


def keep_likely(logits, min_p):
    """Minus infinity for tokens with less than `min_p` of the likeliest one's probability.

    Args:
        logits: float32 [B, V].
        min_p: float32 [B], 0 for every token.
    Source: Nguyen et al., 2024; MinPLogitsWarper.
    """
    ratio = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    return jnp.where(ratio < min_p[:, None], -jnp.inf, logits)


def process(logits, filters: Filters, plan: FilterPlan, *, seen, made, eos_ids: tuple[int, ...]):
    """The filters that greedy decoding and beam search use too.

    Args:
        logits: float32 [B, V].
        filters: The rows' settings.
        plan: Which of them are in use.
        seen: bool [B, V]; read only under a repetition penalty.
        made: int32 [B], tokens of the answer so far.
        eos_ids: Tokens that end an answer.
    """
    if plan.penalty:
        logits = penalise(logits, seen, filters.repetition_penalty)
    if plan.minimum:
        logits = forbid_early_end(logits, made, filters.min_new_tokens, eos_ids)
    return logits


def warp(logits, filters: Filters, plan: FilterPlan):
    """The filters of drawing alone: temperature, top_k, top_p, min_p, in this order."""
    heat = jnp.where(filters.temperature > 0, filters.temperature, 1.0)
    logits = logits / heat[:, None]
    if plan.sort:
        logits = keep_top(logits, filters.top_k, filters.top_p, plan.sort)
    if plan.min_p:
        logits = keep_likely(logits, filters.min_p)
    return logits


def choose(logits, filters: Filters, plan: FilterPlan, positions):
    """The next token of each row.

    A draw's key is made from (seed, row, position), so it depends neither on the other rows nor on
    how many tokens are made at a time.

    Args:
        logits: float32 [B, V] from `process`.
        filters: The rows' settings.
        plan: Which of them are in use.
        positions: int32 [B], where in its sequence each row's new token will stand.
    Returns:
        int32 [B].
    """
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if not plan.draw:
        return likeliest

    def draw(seed, row, position, logits):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), row), position)
        return jax.random.categorical(key, logits)

    drawn = jax.vmap(draw)(filters.seed, filters.row, positions, warp(logits, filters, plan))
    return jnp.where(filters.temperature > 0, drawn.astype(jnp.int32), likeliest)
