"""The compiled part of decoding: reading prompts into a cache, and the loop that makes tokens.

A loop makes a few dozen tokens between two visits of the host. Its state is donated, so the cache
is written in place; what differs between rows is data, so one program serves all settings.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax import models, sharding
from belle_jax.decoding import sampling

PREFILL_CHUNK = 512
"""Tokens of a prompt that are read at once, which bounds the attention scores at a time."""

CHUNK = 32
"""Tokens that one run of the loop can make."""


class RowSettings(NamedTuple):
    """What stays the same for each row while its answer is made."""

    filters: sampling.Filters
    most: sampling.Array  # int32 [B], tokens of the longest answer allowed
    total: sampling.Array  # int32 [B], prompt and longest answer: what `dynamic` RoPE is set for


class LoopState(NamedTuple):
    """What changes with every token."""

    cache: tuple[Any, ...]
    token: jax.Array  # int32 [B], the newest token; its keys are not in the cache yet
    length: jax.Array  # int32 [B], tokens in the cache
    made: jax.Array  # int32 [B], tokens of the answer
    done: jax.Array  # bool [B]
    seen: jax.Array  # bool [B, V], tokens of prompt and answer; [B, 0] where nothing reads it


class Program(NamedTuple):
    """What a compiled program is specialised for, beside shapes."""

    graphdef: Any
    plan: sampling.FilterPlan
    eos_ids: tuple[int, ...]


def fill_cache(model, plan, tokens, lengths, rows: RowSettings, total: int):
    """Fills a new cache with prompts.

    Args:
        model: A decoder.
        plan: Says whether seen tokens must be known.
        tokens: int32 [B, T], padded on the right.
        lengths: int32 [B].
        rows: Settings.
        total: Slots of the cache.
    Returns:
        The cache, the last hidden state of each prompt [B, 1, D], and seen [B, V or 0].
    """
    batch, padded = tokens.shape
    cache = models.empty_cache(model, batch, total)
    last = jnp.zeros((batch, 1, model.architecture.embed), jnp.dtype(model.dtype))
    width = min(padded, PREFILL_CHUNK)

    def read(i, carry):
        cache, last = carry
        positions = jnp.broadcast_to(i * width + jnp.arange(width), (batch, width))
        chunk = jax.lax.dynamic_slice_in_dim(tokens, i * width, width, axis=1)
        h, cache = model.hidden(chunk, positions=positions, cache=cache, rope_lengths=rows.total)
        index = (lengths - 1 - i * width)[:, None, None]
        here = jnp.take_along_axis(h, jnp.clip(index, 0, width - 1), axis=1)
        return cache, jnp.where((index >= 0) & (index < width), here, last)

    carry = cache, last
    count = padded // width
    cache, last = read(0, carry) if count == 1 else jax.lax.fori_loop(0, count, read, carry)
    seen = jnp.zeros((batch, model.architecture.padded_vocab if plan.penalty else 0), bool)
    if plan.penalty:
        # Padding is sent out of bounds, where scatters drop it.
        real = jnp.arange(padded) < lengths[:, None]
        marked = jnp.where(real, tokens, seen.shape[1])
        seen = seen.at[jnp.arange(batch)[:, None], marked].set(True, mode='drop')
    return cache, last, seen


@functools.partial(jax.jit, static_argnames=('program', 'total'))
def prefill(
    program: Program, params, tokens, lengths, live, rows: RowSettings, total: int
) -> LoopState:
    """Reads the prompts and makes the first token of each answer; arguments as in `fill_cache`.

    Args:
        program: Static.
        params: The model's arrays.
        live: bool [B], False for rows that fill the batch up.
    """
    model = nnx.merge(program.graphdef, params)
    cache, last, seen = fill_cache(model, program.plan, tokens, lengths, rows, total)
    zeros = jnp.zeros_like(lengths)
    state = LoopState(cache, zeros, lengths, zeros, ~live, seen)
    return _take(state, _choose(model, program, last, state, rows), program, rows)


@functools.partial(jax.jit, static_argnames='program', donate_argnames='state')
def advance(program: Program, params, state: LoopState, rows: RowSettings, stopped, steps):
    """Makes up to `steps` tokens in each row that is not done.

    Args:
        program: Static.
        params: The model's arrays.
        state: Given up to the result.
        rows: Settings.
        stopped: bool [B], rows that the host has ended.
        steps: int32, at most CHUNK.
    Returns:
        The new state, and int32 [B, CHUNK]: the tokens, -1 behind a row's end.
    """
    model = nnx.merge(program.graphdef, params)
    state = state._replace(done=state.done | stopped)

    def going(carry):
        state, _, step = carry
        return (step < steps) & ~jnp.all(state.done)

    def make(carry):
        state, out, step = carry
        h, cache = model.hidden(
            state.token[:, None],
            positions=state.length[:, None],
            cache=state.cache,
            rope_lengths=rows.total,
        )
        done = state.done
        # A row that is done writes its last slot again and again, so it never outgrows the cache.
        grown = state._replace(cache=cache, length=state.length + ~done)
        state = _take(grown, _choose(model, program, h, grown, rows), program, rows)
        out = out.at[:, step].set(jnp.where(done, -1, state.token))
        return state, out, step + 1

    out = jnp.full((state.token.shape[0], CHUNK), -1, jnp.int32)
    state, out, _ = jax.lax.while_loop(going, make, (state, out, 0))
    return state, out


def _choose(model, program: Program, h, state: LoopState, rows: RowSettings):
    so_far: Any = {'seen': state.seen, 'made': state.made, 'eos_ids': program.eos_ids}
    logits = sampling.process(model.logits(h)[:, 0], rows.filters, program.plan, **so_far)
    return sampling.choose(logits, rows.filters, program.plan, state.length)


def _take(state: LoopState, token, program: Program, rows: RowSettings) -> LoopState:
    """Adds a token to each answer that is not done."""
    token = jnp.where(state.done, state.token, token)
    made = state.made + ~state.done
    ended = jnp.isin(token, jnp.array(program.eos_ids, jnp.int32)) | (made >= rows.most)
    seen = state.seen
    if program.plan.penalty:
        seen = seen.at[jnp.arange(token.shape[0]), token].set(True)
        seen = sharding.constrain(seen, ('batch', 'vocab'))
    # One layout for the whole loop: a state that came back in another would be compiled for again.
    vectors = token, state.length, made, state.done | ended
    token, length, made, done = (sharding.constrain(v, ('batch',)) for v in vectors)
    return LoopState(state.cache, token, length, made, done, seen)
