"""Attention: one function that owns every backend's rules.

A backend takes q [B, T, N, H], k and v [B, S, K, H], the segments of a packed batch and, for BLOOM,
ALiBi slopes. `xla` runs anywhere and is the reference; `cudnn` is flash attention on NVIDIA GPUs;
`splash` is flash attention on TPUs.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from belle_jax import sharding
from belle_jax.models import flash, layers, products

QUERY_CHUNK = 256
"""Queries whose scores exist at once; the backward pass recomputes them."""

ROWS = 32
"""Of a cache that are written one by one at most: each makes the program longer."""


def attention(
    q_btnh: jax.Array,
    k_bskh: jax.Array,
    v_bskh: jax.Array,
    *,
    segment_ids: jax.Array | None = None,
    slopes: np.ndarray | None = None,
    backend: str = 'auto',
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Causal grouped-query softmax attention, accumulated in float32.

    Args:
        q_btnh: Queries [B, T, N, H], rotated; scaled here by 1/sqrt(H).
        k_bskh: Keys [B, S, K, H]; N is a multiple of K.
        v_bskh: Values [B, S, K, H].
        segment_ids: int [B, T] of a packed batch (T = S): attention stays within a segment.
        slopes: float32 [N] of ALiBi, which adds slope · (key index − query index).
        backend: auto, xla, cudnn or splash.
        dropout: Fraction of attention weights dropped when `key` is given.
        key: For dropout.
    Returns:
        [B, T, N, H] in the dtype of q.
    Raises:
        ValueError: the named backend cannot do what is asked.
    Source: Ainslie et al., 2023 (GQA), section 2.2; Press et al., 2022 (ALiBi), section 3.
    """
    dropping = key is not None and dropout > 0
    if backend == 'auto':
        backend = 'xla' if dropping else flash.choose(q_btnh)
    if backend != 'xla':
        if dropping:
            raise ValueError(
                f'--config.model.attention={backend} has no attention dropout: set '
                '--config.model.attention_dropout=0 or --config.model.attention=xla.'
            )
        return flash.attention(q_btnh, k_bskh, v_bskh, segment_ids, slopes, backend)
    return _chunked(q_btnh, k_bskh, v_bskh, segment_ids, slopes, dropout, key if dropping else None)


def attend(
    q_btnh, k_bskh, v_bskh, context, cache, execution, key, slopes=None
) -> tuple[jax.Array, layers.Cache | None]:
    """A block's attention among its own tokens, or to a cache that they are written to first.

    Arguments are as in `attention`, and the block's context, its layer's cache (or None) and the
    model's execution.

    Returns:
        [B, T, N, H] in the dtype of q, and the cache with the new tokens.
    """
    if cache is None:
        dropout, segment_ids = execution.attention_dropout, context.segment_ids
        settings = {'backend': execution.attention, 'dropout': dropout, 'key': key}
        out = attention(q_btnh, k_bskh, v_bskh, segment_ids=segment_ids, slopes=slopes, **settings)
        return out, None
    slots = context.positions
    cache = write_cache(cache[0], k_bskh, slots), write_cache(cache[1], v_bskh, slots)
    return cached_attention(q_btnh, *cache, slots, slopes), cache


def _chunked(q_btnh, k_bskh, v_bskh, segment_ids, slopes, dropout, key):
    """Attention with the scores of only a chunk of queries in memory, forward and backward."""
    batch, length = q_btnh.shape[:2]
    chunk = max(QUERY_CHUNK, -(-length // 16))  # at most 16 chunks: compile time stays flat
    outs = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        slots = jnp.broadcast_to(jnp.arange(start, stop), (batch, stop - start))
        of_chunk = functools.partial(_attend, slopes=slopes, dropout=dropout)
        if length > chunk:
            of_chunk = jax.checkpoint(of_chunk)
        segments = (None, None)
        if segment_ids is not None:
            segments = segment_ids[:, start:stop], segment_ids[:, :stop]
        chunk_key = None if key is None else jax.random.fold_in(key, start)
        # Keys after the chunk's last query are never read: half of the work.
        keys, values = k_bskh[:, :stop], v_bskh[:, :stop]
        outs.append(of_chunk(q_btnh[:, start:stop], keys, values, *segments, slots, key=chunk_key))
    return outs[0] if len(outs) == 1 else jnp.concatenate(outs, axis=1)


def _attend(
    q_btnh, keys, values, q_segments, k_segments, slots, slopes, dropout=0.0, key=None, axes='bskh'
):
    """Plain attention: scores [B, K, G, T, S] in float32, G query heads for each key head.

    `axes` says how keys and values lie.
    """
    batch, length, heads, head_dim = q_btnh.shape
    kv_heads, size = keys.shape[axes.index('k')], keys.shape[axes.index('s')]
    q_btkgh = q_btnh.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    least = -(-products.FEW * kv_heads // heads)
    product = functools.partial(
        jnp.einsum, f'btkgh,{axes}->bkgts', preferred_element_type=jnp.float32
    )
    scores = products.few_rows(product, q_btkgh, keys, axis=1, out_axis=3, least=least)
    scores = scores * (1.0 / math.sqrt(head_dim))
    key_slots = jnp.arange(size)
    distance_bts = key_slots[None, None, :] - slots[:, :, None]
    if slopes is not None:
        slopes_kg = jnp.asarray(slopes).reshape(kv_heads, heads // kv_heads)
        scores = scores + slopes_kg[None, :, :, None, None] * distance_bts[:, None, None].astype(
            jnp.float32
        )
    readable = distance_bts <= 0
    if q_segments is not None:
        readable &= q_segments[:, :, None] == k_segments[:, None, :]
    scores = jnp.where(readable[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    weights = layers.dropout(weights, dropout, key)
    product = functools.partial(jnp.einsum, f'bkgts,{axes}->btkgh')
    out = products.few_rows(product, weights, values, axis=3, out_axis=1, least=least)
    return out.reshape(q_btnh.shape)


def cached_attention(
    q_btnh: jax.Array,
    k_bksh: jax.Array,
    v_bksh: jax.Array,
    slots: jax.Array,
    slopes: np.ndarray | None = None,
) -> jax.Array:
    """Attention of new tokens to a key-value cache that holds them already.

    Args:
        q_btnh: Queries [B, T, N, H], rotated.
        k_bksh: Keys [B, K, S, H]. Heads come before slots, so that what one head reads for a token
            lies together (with eight rows on a CPU, six to thirteen times as fast).
        v_bksh: Values [B, K, S, H].
        slots: int [B, T], each query's own slot: it reads up to there.
        slopes: float32 [N] of ALiBi.
    Returns:
        [B, T, N, H] in the dtype of q.
    """
    return _attend(q_btnh, k_bksh, v_bksh, None, None, slots, slopes, axes='bksh')


def write_cache(cache_bksh: jax.Array, new_btkh: jax.Array, slots: jax.Array) -> jax.Array:
    """Puts the keys or values of T consecutive tokens into a cache.

    Args:
        cache_bksh: [B, K, S, H].
        new_btkh: [B, T, K, H].
        slots: int [B, T], consecutive in each row: where each token goes.
    Returns:
        The cache; slots at or beyond S are moved back so that all T fit (lax clamps the start).
    """
    new_bkth = new_btkh.swapaxes(1, 2).astype(cache_bksh.dtype)

    def of_row(cache_ksh, new_kth, start):
        return jax.lax.dynamic_update_slice(cache_ksh, new_kth, (0, start, 0))

    def row_by_row(cache_bksh, new_bkth, starts):
        for row in range(len(starts)):
            new, at = new_bkth[row : row + 1], (row, 0, starts[row], 0)
            cache_bksh = jax.lax.dynamic_update_slice(cache_bksh, new, at)
        return cache_bksh

    together = jax.vmap(of_row)
    # Of rows together a TPU's compiler makes a loop, six times as slow; of one row, it copies the
    # cache into another layout.
    few = len(slots) <= ROWS and sharding.shards('batch') == 1
    cache = jax.lax.platform_dependent(
        cache_bksh, new_bkth, slots[:, 0], tpu=row_by_row if few else together, default=together
    )
    return sharding.constrain(cache, ('batch', 'heads', 'length', 'head_dim'))


def alibi_slopes(heads: int) -> np.ndarray:
    """How fast each head's attention falls with distance.

    Args:
        heads: N, any number.
    Returns:
        float32 [N].
    Source: Press et al., 2022; for an N that is not a power of two, as BLOOM: those of the next
        lower power, then every other one of the next higher power's.
    """
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / lower) for i in range(lower)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / lower) for i in range(heads - lower)]
    return np.asarray(slopes, np.float32)
