"""The two operations over the vocabulary, sharded: looking tokens up, and the loss of predicting
them.

Left to the compiler, `table[tokens]` on a table that is split both ways gathers the global batch,
and logits of BLOOM's 250,880 tokens take 2 GB of float32 for a sequence of 2,048. So both run by
hand: rows of the table stay where they are, and logits exist for a chunk of tokens at a time.
"""

import functools

import jax
import jax.numpy as jnp

from belle_jax import sharding
from belle_jax.models import products

CHUNK_ELEMENTS = 2**26
"""Logits that exist at once on a device: 256 MB of float32, and no more than a quarter of all."""

TABLE = ('vocab', 'embed')
ROWS = ('batch', 'length')
STATES = ('batch', 'length', 'features')


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def embed(tokens_bt: jax.Array, table_vd: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Looks tokens up.

    Args:
        tokens_bt: int [B, T], below V.
        table_vd: [V, D].
        dtype: Of the result.
    Returns:
        [B, T, D].
    """
    return _embed_forward(tokens_bt, table_vd, dtype)[0]


def _embed_forward(tokens_bt, table_vd, dtype):
    def local(tokens_bt, table_vd):
        # Tokens are small: every device looks all tokens of its fsdp group up in its own columns
        # and rows, then columns are exchanged for batch rows.
        tokens_bt = sharding.gather(tokens_bt, 'embed', 0)
        slots_bt, held_bt = _local_rows(tokens_bt, table_vd.shape[0])
        found_btd = jnp.where(held_bt[..., None], table_vd[slots_bt], 0).astype(dtype)
        return sharding.psum(sharding.exchange(found_btd, 'embed', 0, 2), 'vocab')

    out = sharding.shard_map(local, (ROWS, TABLE), STATES)(tokens_bt, table_vd)
    return out, (tokens_bt, table_vd)


def _embed_backward(dtype, residuals, g_btd):
    tokens_bt, table_vd = residuals

    def local(tokens_bt, table_vd, g_btd):
        tokens_bt = sharding.gather(tokens_bt, 'embed', 0)
        slots_bt, held_bt = _local_rows(tokens_bt, table_vd.shape[0])
        # summed in float32: a frequent token collects thousands of small terms
        g_btd = sharding.exchange(g_btd, 'embed', 2, 0).astype(jnp.float32)
        slots_bt = jnp.where(held_bt, slots_bt, table_vd.shape[0])
        zeros = jnp.zeros(table_vd.shape, jnp.float32)
        return sharding.psum(zeros.at[slots_bt].add(g_btd, mode='drop'), 'replicas')

    g_vd = sharding.shard_map(local, (ROWS, TABLE, STATES), TABLE)(tokens_bt, table_vd, g_btd)
    return None, g_vd.astype(table_vd.dtype)


embed.defvjp(_embed_forward, _embed_backward)


def logits(h_btd: jax.Array, table_vd: jax.Array, vocab_size: int) -> jax.Array:
    """The logits of every token, for sampling: few positions at a time.

    Args:
        h_btd: Final hidden states [B, T, D].
        table_vd: Output table [V, D], V padded.
        vocab_size: Rows of the table that are tokens; the logits of the rest are minus infinity.
    Returns:
        float32 [B, T, V].
    """
    h_md, w_dv = h_btd.reshape(-1, h_btd.shape[-1]), table_vd.astype(h_btd.dtype).T
    out = products.few_rows(_dot, h_md, w_dv)
    out = jnp.where(jnp.arange(table_vd.shape[0]) < vocab_size, out, -jnp.inf)
    return sharding.constrain(out.reshape(*h_btd.shape[:2], -1), ('batch', 'length', 'vocab'))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def token_losses(
    h_btd: jax.Array, table_vd: jax.Array, targets_bt: jax.Array, vocab_size: int
) -> jax.Array:
    """The negative log-probability of each target, without ever building the full logits.

    Args:
        h_btd: Final hidden states [B, T, D].
        table_vd: Output table [V, D], V padded.
        targets_bt: int [B, T], below vocab_size.
        vocab_size: Rows of the table that are tokens; the rest have probability 0.
    Returns:
        float32 [B, T], nats.
    """
    return _losses_forward(h_btd, table_vd, targets_bt, vocab_size)[0]


def token_scores(
    h_btd: jax.Array, table_vd: jax.Array, targets_bt: jax.Array, vocab_size: int
) -> tuple[jax.Array, jax.Array]:
    """What `token_losses` gives, without a gradient, and whether each target is the likeliest.

    Args:
        h_btd: Final hidden states [B, T, D].
        table_vd: Output table [V, D], V padded.
        targets_bt: int [B, T], below vocab_size.
        vocab_size: Rows of the table that are tokens; the rest have probability 0.
    Returns:
        The log-probability of each target, float32 [B, T], nats; and bool [B, T], True where no
        token is likelier.
    """
    losses_bt, _, likeliest_bt = _against_targets(h_btd, table_vd, targets_bt, vocab_size)
    return -losses_bt, likeliest_bt


def _losses_forward(h_btd, table_vd, targets_bt, vocab_size):
    losses_bt, normalisers_bt, _ = _against_targets(h_btd, table_vd, targets_bt, vocab_size)
    return losses_bt, (h_btd, table_vd, targets_bt, normalisers_bt)


def _against_targets(h_btd, table_vd, targets_bt, vocab_size):
    """[B, T] each: losses, the logarithms of the sums that they are against, likeliest or not."""

    def local(h_btd, table_vd, targets_bt):
        w_vd = sharding.gather(table_vd.astype(h_btd.dtype), 'embed', 1)

        def of_chunk(h_cd, targets_c):
            logits_cv = _logits(h_cd, w_vd, vocab_size)
            top_c = sharding.pmax(logits_cv.max(axis=-1), 'vocab')
            total_c = sharding.psum(jnp.exp(logits_cv - top_c[:, None]).sum(axis=-1), 'vocab')
            normaliser_c = top_c + jnp.log(total_c)
            slots_c, held_c = _local_rows(targets_c, w_vd.shape[0])
            found_c = jnp.take_along_axis(logits_cv, slots_c[:, None], axis=-1)[:, 0]
            found_c = sharding.psum(jnp.where(held_c, found_c, 0), 'vocab')
            return normaliser_c - found_c, normaliser_c, found_c >= top_c

        return _over_chunks(
            lambda _, chunk: (None, of_chunk(*chunk)), None, w_vd.shape[0], h_btd, targets_bt
        )[1]

    mapped = sharding.shard_map(local, (STATES, TABLE, ROWS), (ROWS, ROWS, ROWS))
    return mapped(h_btd, table_vd, targets_bt)


def _losses_backward(vocab_size, residuals, g_bt):
    h_btd, table_vd, targets_bt, normalisers_bt = residuals

    def local(h_btd, table_vd, targets_bt, normalisers_bt, g_bt):
        w_vd = sharding.gather(table_vd.astype(h_btd.dtype), 'embed', 1)

        def of_chunk(g_vd, chunk):
            h_cd, targets_c, normalisers_c, g_c = chunk
            slots_c, held_c = _local_rows(targets_c, w_vd.shape[0])
            wanted_cv = (jnp.arange(w_vd.shape[0]) == slots_c[:, None]) & held_c[:, None]
            probabilities_cv = jnp.exp(_logits(h_cd, w_vd, vocab_size) - normalisers_c[:, None])
            g_cv = ((probabilities_cv - wanted_cv) * g_c[:, None]).astype(h_cd.dtype)
            # float32 sums: in bfloat16, terms of later chunks would vanish in what is there already
            return g_vd + _dot(g_cv.T, h_cd), (_dot(g_cv, w_vd).astype(h_cd.dtype),)

        zeros = jnp.zeros(w_vd.shape, jnp.float32)
        arrays = h_btd, targets_bt, normalisers_bt, g_bt
        g_vd, (g_h_btd,) = _over_chunks(of_chunk, zeros, w_vd.shape[0], *arrays)
        # the only collectives of the size of the table, once, after the loop
        g_vd = sharding.psum(sharding.scatter_sum(g_vd, 'embed', 1), 'replicas')
        return sharding.psum(g_h_btd, 'vocab'), g_vd

    mapped = sharding.shard_map(local, (STATES, TABLE, ROWS, ROWS, ROWS), (STATES, TABLE))
    g_h_btd, g_vd = mapped(h_btd, table_vd, targets_bt, normalisers_bt, g_bt)
    return g_h_btd, g_vd.astype(table_vd.dtype), None


token_losses.defvjp(_losses_forward, _losses_backward)


def _logits(h_cd: jax.Array, w_vd: jax.Array, vocab_size: int) -> jax.Array:
    """float32 [C, V local]; padding is minus infinity."""
    rows = w_vd.shape[0]
    ids = sharding.index('vocab') * rows + jnp.arange(rows)
    return jnp.where(ids < vocab_size, _dot(h_cd, w_vd.T), -jnp.inf)


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jax.lax.dot(a, b, preferred_element_type=jnp.float32)


def _local_rows(tokens: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Where tokens are in this device's part of the table, and whether they are there at all."""
    slots = tokens - sharding.index('vocab') * rows
    held = (slots >= 0) & (slots < rows)
    return jnp.clip(slots, 0, rows - 1), held


def _over_chunks(function, carry, vocab_rows, *arrays):
    """Scans over chunks of tokens; arrays and results are [B, T, ...], chunks [C, ...]."""
    batch, length = arrays[0].shape[:2]
    tokens = batch * length
    flat = [a.reshape(tokens, *a.shape[2:]) for a in arrays]
    if tokens * vocab_rows <= CHUNK_ELEMENTS // 4:
        carry, outs = function(carry, tuple(flat))
    else:
        fitting = max(128, min(CHUNK_ELEMENTS // vocab_rows, tokens // 4))
        chunk = 2 ** (fitting.bit_length() - 1)
        count = -(-tokens // chunk)
        pad = count * chunk - tokens
        chunks = tuple(
            jnp.pad(a, [(0, pad)] + [(0, 0)] * (a.ndim - 1)).reshape(count, chunk, *a.shape[1:])
            for a in flat
        )
        carry, outs = jax.lax.scan(function, carry, chunks)
        outs = jax.tree.map(lambda o: o.reshape(-1, *o.shape[2:])[:tokens], outs)
    return carry, jax.tree.map(lambda o: o.reshape(batch, length, *o.shape[1:]), outs)
