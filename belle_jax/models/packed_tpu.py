"""The product with a packed weight on TPUs: words are read once and become floats in VMEM.

A word of `bits`-bit codes has 32 / bits slots. Slot s of all words is itself a weight, of every
(32 / bits)-th row beginning with s, and its words lie as the product wants them: so the activations
are split the same way, and the product is a sum over slots, without moving a code.

Bytes that a program of M rows moves, by its block shapes: the words (K · N · bits / 8) once for
every 256 rows; scales and zeros 8 · G · N as often; the activations once; the output once. For
LLaMA's 4096 × 11008 at 4 bits in groups of 128 and up to 256 rows that is 22.5 + 2.8 MB and
M · 30 kB in bfloat16, where a bfloat16 weight is 90 MB.

Legend: M rows of activations, K contracted inputs, N outputs, G groups, S slots of a word.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

ROWS = 256
"""Of activations in a block; fewer where there are fewer."""
COLUMNS = 256
CHUNK = 128
"""Rows of words that are floats at a time: the contraction that fills a matrix unit."""


def product(x, words, scales, zeros, bits: int, group_size: int, interpret: bool = False):
    """x times the weight; arguments as `packed_product`'s.

    Args:
        interpret: Runs the kernel on a CPU, slowly.
    Raises:
        ValueError: 3 bits, or groups that are no whole number of words or do not fill chunks.
    """
    slots, (m, k) = 32 // bits, x.shape
    rows = words.shape[0]
    group_rows = min(group_size // slots, rows) if group_size < k else rows
    whole = group_rows == rows or group_rows % CHUNK == 0 or CHUNK % group_rows == 0
    if bits == 3 or (group_size % slots and group_size < k) or not whole:
        raise ValueError(
            f'backend=mosaic_tpu takes 2, 4 or 8 bits in groups of {slots} times a power of two, '
            f'not {bits} bits in groups of {group_size}: use backend=xla.'
        )
    block_m = min(ROWS, -(-m // 16) * 16)
    x = jnp.pad(x, ((0, -m % block_m), (0, rows * slots - k)))
    x_smr = x.reshape(-1, rows, slots).transpose(2, 0, 1)
    columns = words.shape[1]
    scales = scales.astype(jnp.float32)
    points = [] if zeros is None else [zeros.astype(jnp.float32)]
    of_groups = pl.BlockSpec((scales.shape[0], COLUMNS), lambda i, j: (0, j))

    def kernel(x_ref, words_ref, scales_ref, *rest):
        points_ref, out_ref = rest if points else (None, *rest)
        total = jnp.zeros(out_ref.shape, jnp.float32)
        for start in range(0, rows, CHUNK):
            here = pl.ds(start, min(CHUNK, rows - start))
            words_rn = words_ref[here, :]
            scales_rn = _of_rows(scales_ref, here, group_rows)
            point = float(2 ** (bits - 1)) if points_ref is None else 0.0
            points_rn = point if points_ref is None else _of_rows(points_ref, here, group_rows)
            for slot in range(slots):
                shifted = jax.lax.shift_right_logical(words_rn, slot * bits)
                codes = (shifted & (2**bits - 1)).astype(jnp.float32)
                weight_rn = ((codes - points_rn) * scales_rn).astype(x_ref.dtype)
                total += jnp.dot(
                    x_ref[slot, :, here], weight_rn, preferred_element_type=jnp.float32
                )
        out_ref[...] = total.astype(out_ref.dtype)

    out = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((x.shape[0], columns), x.dtype),
        grid=(x.shape[0] // block_m, -(-columns // COLUMNS)),
        in_specs=[
            pl.BlockSpec((slots, block_m, rows), lambda i, j: (0, i, 0)),
            pl.BlockSpec((rows, COLUMNS), lambda i, j: (0, j)),
            *[of_groups] * (1 + len(points)),
        ],
        out_specs=pl.BlockSpec((block_m, COLUMNS), lambda i, j: (i, j)),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=('parallel', 'parallel'), vmem_limit_bytes=100 << 20
        ),
        interpret=interpret,
    )(x_smr, words, scales, *points)
    return out[:m]


def _of_rows(groups_ref, here, group_rows: int):
    """What the groups of some rows of words say, one row each; one row where they share a group."""
    first = here.start // group_rows
    if group_rows >= here.size:
        return groups_ref[first : first + 1, :]
    count = -(-here.size // group_rows)
    groups_gn = groups_ref[first : first + count, :]
    return jnp.repeat(groups_gn, group_rows, axis=0)[: here.size]
