"""Beam search: the likeliest whole answer that a few hypotheses at a time lead to.

The rules are transformers' (`GenerationMixin._beam_search` of 5.23, early_stopping False,
length_penalty 1): scores are sums of log-probabilities, a finished hypothesis is ranked by its
mean, and a row ends when its best running mean cannot beat its worst finished one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from belle_jax.decoding import loop, sampling
from belle_jax.decoding.batch import AnswerBatch

NEVER = -1e9
"""Score of what must not be chosen; finite, so that sums stay ordered."""


class Beams(NamedTuple):
    """The search of B rows with N hypotheses each."""

    cache: Any  # keys and values of the running hypotheses, [B·N, K, S, H]
    seen: jax.Array  # bool [B·N, V or 0], as in `loop.LoopState`
    running: jax.Array  # int32 [B, N, S], their tokens
    running_scores: jax.Array  # float32 [B, N], sums of log-probabilities, best first
    finished: jax.Array  # int32 [B, N, S]
    lengths: jax.Array  # int32 [B, N], tokens of the finished
    scores: jax.Array  # float32 [B, N], means, best first
    filled: jax.Array  # bool [B, N], whether a place holds a finished hypothesis
    going: jax.Array  # bool [B], whether a row's search goes on
    made: jax.Array  # int32, tokens of each running hypothesis


def search(batch: AnswerBatch) -> list[list[int]]:
    """Each row's best hypothesis, its end token included; rows must have one number of beams."""
    numbers = {a.settings.num_beams for a in batch.answers}
    if len(numbers) > 1:
        raise ValueError(f'num_beams is {numbers} in one batch: give all prompts the same.')
    with batch.engine.on_mesh():
        tokens, lengths = _search(*batch.prompts, numbers.pop())
    pairs = zip(np.asarray(tokens), np.asarray(lengths))
    return [[int(t) for t in row[:length]] for row, length in pairs][: len(batch.answers)]


@functools.partial(jax.jit, static_argnames=('program', 'total', 'beams'))
def _search(program, params, tokens, lengths, live, rows: loop.RowSettings, total: int, beams: int):
    model = nnx.merge(program.graphdef, params)
    batch = tokens.shape[0]
    cache, last, seen = loop.fill_cache(model, program.plan, tokens, lengths, rows, total)
    spread = functools.partial(jnp.repeat, repeats=beams, axis=0)
    nothing = jnp.zeros((batch, beams, total), jnp.int32)
    # Hypotheses start equal: all but the first are kept out, or each would be found N times.
    first = jnp.full((batch, beams), NEVER).at[:, 0].set(0.0)
    state = Beams(
        cache=jax.tree.map(spread, cache),
        seen=spread(seen),
        running=nothing,
        running_scores=first,
        finished=nothing,
        lengths=jnp.zeros((batch, beams), jnp.int32),
        scores=jnp.full((batch, beams), NEVER),
        filled=jnp.zeros((batch, beams), bool),
        going=live,
        made=jnp.zeros((), jnp.int32),
    )
    select = functools.partial(_select, program=program, rows=rows)
    positions = spread(lengths)

    def extend(state: Beams) -> Beams:
        newest = jax.lax.dynamic_index_in_dim(state.running, state.made - 1, 2, keepdims=False)
        h, cache = model.hidden(
            newest.reshape(-1, 1),
            positions=(positions + state.made - 1)[:, None],
            cache=state.cache,
            rope_lengths=spread(rows.total),
        )
        return select(state._replace(cache=cache), model.logits(h)[:, 0])

    state = select(state, spread(model.logits(last)[:, 0]))
    state = jax.lax.while_loop(lambda s: jnp.any(s.going), extend, state)
    return state.finished[:, 0], state.lengths[:, 0]


def _select(state: Beams, logits, *, program: loop.Program, rows: loop.RowSettings) -> Beams:
    """One step: the best continuations of all hypotheses go on or are finished."""
    batch, beams, _ = state.running.shape
    ends = jnp.array(program.eos_ids, jnp.int32)
    # So many candidates that N go on even if all the best ones end.
    kept = max(2, 1 + len(program.eos_ids)) * beams
    scores, parents, tokens = _candidates(state, logits, program, rows, kept)
    candidates = _gather(state.running, parents).at[:, :, state.made].set(tokens)
    made = state.made + 1
    full = made >= rows.most
    over = jnp.isin(tokens, ends) | full[:, None]

    running_scores, chosen = jax.lax.top_k(scores + over * NEVER, beams)
    origins = (jnp.arange(batch)[:, None] * beams + _gather(parents, chosen)).reshape(-1)
    seen = state.seen
    if program.plan.penalty:
        newest = _gather(tokens, chosen).reshape(-1)
        seen = seen[origins].at[jnp.arange(batch * beams), newest].set(True)

    finishing = over & (jnp.arange(kept) < beams) & state.going[:, None]
    means = scores / made + ~finishing * NEVER
    best, places = jax.lax.top_k(jnp.concatenate([state.scores, means], 1), beams)

    def merged(old, new):
        return _gather(jnp.concatenate([old, new], 1), places)

    filled = merged(state.filled, finishing)
    worst = jnp.where(filled, best.min(axis=1, keepdims=True), NEVER)
    improvable = jnp.any(running_scores[:, :1] / made > worst, axis=1)
    return Beams(
        cache=jax.tree.map(lambda c: c[origins], state.cache),
        seen=seen,
        running=_gather(candidates, chosen),
        running_scores=running_scores,
        finished=merged(state.finished, candidates),
        lengths=merged(state.lengths, jnp.full(tokens.shape, made)),
        scores=best,
        filled=filled,
        going=state.going & improvable & ~full,
        made=made,
    )


def _candidates(state: Beams, logits, program, rows: loop.RowSettings, kept: int):
    """The best continuations: summed scores, which hypothesis each continues, and its token."""
    batch, beams, _ = state.running.shape
    spread = functools.partial(jnp.repeat, repeats=beams, axis=0)
    filters, made = jax.tree.map(spread, rows.filters), jnp.full(batch * beams, state.made)
    so_far: Any = {'seen': state.seen, 'made': made, 'eos_ids': program.eos_ids}
    scores = sampling.process(jax.nn.log_softmax(logits), filters, program.plan, **so_far)
    vocab = scores.shape[-1]
    scores = scores.reshape(batch, beams, vocab) + state.running_scores[:, :, None]
    best, index = jax.lax.top_k(scores.reshape(batch, -1), kept)
    return best, index // vocab, (index % vocab).astype(jnp.int32)


def _gather(values, index):
    """values [B, M, ...] at index [B, N]: [B, N, ...]."""
    index = index.reshape(*index.shape, *[1] * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)
