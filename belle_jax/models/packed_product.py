"""The product of activations and a weight of 2, 3, 4 or 8 bits, which stays packed in memory.

The weight lies as GPTQ checkpoints have it: along K, every 32 codes take `bits` words, and code j
of such a unit starts at bit j · bits of the unit's little-endian bit string. With 4 bits, one
column of the 8 codes 1 2 3 4 5 6 7 8 is the word 0x87654321; with 3 bits codes 10 and 21 of a unit
straddle two words. A row k of group g stands for scale[g, n] · (code[k, n] - zero[g, n]), or for
scale[g, n] · levels[code[k, n]] where the codes are places in a list of levels.

Legend: M rows of activations, K contracted inputs, N outputs, G groups.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

UNIT = 32
"""Codes that take a whole number of words at any number of bits."""
BACKENDS = ('auto', 'xla', 'mosaic_gpu', 'mosaic_tpu')
BLOCK_BYTES = 1 << 20
"""Of floats that the CPU makes at a time: about what its second-level cache holds."""


def packed_product(
    x: jax.Array,
    words: jax.Array,
    scales: jax.Array,
    zeros: jax.Array | None = None,
    groups: jax.Array | None = None,
    *,
    bits: int,
    group_size: int = 0,
    levels: tuple[float, ...] = (),
    backend: str = 'auto',
) -> jax.Array:
    """x times the weight that the words stand for; differentiable in x and in the scales.

    The weight is computed in float32, rounded once to the dtype of x, and products are summed in
    float32.

    Args:
        x: float32 or bfloat16 [M, K].
        words: int32 [ceil(K / 32) · bits, N]. What the last unit holds beyond K does not matter.
        scales: float16, bfloat16 or float32 [G, N].
        zeros: uint8 [G, N], from 0 to 2^bits (to 255 at 8 bits); None: 2^(bits - 1) everywhere.
        groups: int32 [K], the group of each row (act-order); None: row k is in group
            k // group_size.
        bits: 2, 3, 4 or 8.
        group_size: Rows of a group; 0: all of them.
        levels: What each code stands for, in place of its distance from a zero.
        backend: auto, xla, mosaic_gpu or mosaic_tpu. The last two are kernels of one device: on a
            mesh they are called within `shard_map`. `auto` is XLA until they are measured faster.
    Returns:
        [M, N] in the dtype of x.
    Raises:
        ValueError: shapes that do not fit each other, or what the backend does not do.
    Source: Frantar et al., 2022 (GPTQ); the layout is AutoGPTQ's.
    """
    _check(x, words, scales, zeros, groups, bits, group_size)
    if backend not in BACKENDS:
        raise ValueError(f'backend={backend!r} is none of {", ".join(BACKENDS)}.')
    if (groups is not None or levels) and backend.startswith('mosaic'):
        raise ValueError(
            f'backend={backend} takes no groups out of order and no levels: use backend=xla.'
        )
    size = group_size or x.shape[1]
    return _product(x, words, scales, zeros, groups, bits, size, levels, backend)


def unpack(words: jax.Array, bits: int, rows: int) -> jax.Array:
    """The codes of packed words.

    Args:
        words: int32 [units · bits, N].
        bits: 2, 3, 4 or 8.
        rows: K, how many codes of a column there are.
    Returns:
        int32 [K, N], from 0 to 2^bits - 1.
    """
    unsigned = jax.lax.bitcast_convert_type(words, jnp.uint32)
    columns = words.shape[1]
    if UNIT % bits:  # the bits of code j from two words of its unit, the second where it straddles
        units = unsigned.reshape(-1, 1, bits, columns)
        start = np.arange(UNIT) * bits
        word, shift = start // 32, np.asarray(start % 32, np.uint32)[:, None]
        low = units[:, 0, word] >> shift
        straddles = shift + bits > 32
        high = units[:, 0, np.minimum(word + 1, bits - 1)] << np.where(straddles, 32 - shift, 0)
        codes = jnp.where(straddles, low | high, low)
    else:
        shift = np.arange(0, 32, bits, dtype=np.uint32)[:, None]
        codes = unsigned[:, None] >> shift
    codes = (codes & np.uint32(2**bits - 1)).astype(jnp.int32)
    return codes.reshape(-1, columns)[:rows]


def dequantise(
    words, scales, zeros, groups, rows: int, bits: int, group_size: int, levels=()
) -> jax.Array:
    """The weight, float32 [K, N]; arguments as `packed_product`'s, K by `rows`."""
    codes = unpack(words, bits, rows)
    if groups is None and group_size < rows and rows % group_size == 0:
        codes = codes.reshape(-1, group_size, codes.shape[1])

    def per_row(of_group):
        if groups is not None:
            return of_group[groups]
        if codes.ndim == 3:
            return of_group[:, None]
        short_last = group_size < rows
        return jnp.repeat(of_group, group_size, axis=0)[:rows] if short_last else of_group

    if levels:
        steps = jnp.asarray(levels, jnp.float32)[codes]
    else:
        zeros = 2 ** (bits - 1) if zeros is None else per_row(zeros.astype(jnp.int32))
        steps = (codes - zeros).astype(jnp.float32)
    weight = steps * per_row(scales.astype(jnp.float32))
    return weight.reshape(rows, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _product(x, words, scales, zeros, groups, bits, group_size, levels, backend):
    if backend == 'mosaic_gpu':
        from belle_jax.models import packed_mosaic

        return packed_mosaic.product(x, words, scales, zeros, bits, group_size)
    if backend == 'mosaic_tpu':
        from belle_jax.models import packed_tpu

        return packed_tpu.product(x, words, scales, zeros, bits, group_size)
    sharded = jax.sharding.get_abstract_mesh().size > 1
    product = _plain if sharded or jax.default_backend() != 'cpu' else _by_columns
    return product(x, words, scales, zeros, groups, bits, group_size, levels)


def _forward(x, words, scales, zeros, groups, bits, group_size, levels, backend):
    out = _product(x, words, scales, zeros, groups, bits, group_size, levels, backend)
    return out, (x, words, scales, zeros, groups)


def _backward(bits, group_size, levels, backend, kept, out_gradient):
    """The weight is made again: kept between the passes it would be as large as the float model."""
    del backend
    x, words, scales, zeros, groups = kept

    def of_x_and_scales(x, scales):
        return _plain(x, words, scales, zeros, groups, bits, group_size, levels)

    x_gradient, scales_gradient = jax.vjp(of_x_and_scales, x, scales)[1](out_gradient)
    return x_gradient, None, scales_gradient, None, None


_product.defvjp(_forward, _backward)


def _plain(x, words, scales, zeros, groups, bits, group_size, levels):
    """The whole weight at once: sharded as any other product, where a loop would gather blocks."""
    weight = dequantise(words, scales, zeros, groups, x.shape[1], bits, group_size, levels)
    out = jax.lax.dot(x, weight.astype(x.dtype), preferred_element_type=jnp.float32)
    return out.astype(x.dtype)


def _by_columns(x, words, scales, zeros, groups, bits, group_size, levels):
    """Block after block of columns, whose floats stay in a CPU's cache.

    Any grouping of rows works, because a block has all of them. The last block ends at the last
    column and may overlap the one before it.
    """
    rows, columns = x.shape[1], words.shape[1]
    width = min(columns, max(64, BLOCK_BYTES // (4 * rows) // 64 * 64))

    def block(index, out):
        start = jnp.minimum(index * width, columns - width)
        cut_words, cut_scales, cut_zeros = (
            None if a is None else jax.lax.dynamic_slice_in_dim(a, start, width, axis=1)
            for a in (words, scales, zeros)
        )
        part = _plain(x, cut_words, cut_scales, cut_zeros, groups, bits, group_size, levels)
        return jax.lax.dynamic_update_slice_in_dim(out, part, start, axis=1)

    out = jnp.zeros((x.shape[0], columns), x.dtype)
    return jax.lax.fori_loop(0, -(-columns // width), block, out)


def _check(x, words, scales, zeros, groups, bits, group_size) -> None:
    """Refuses what does not fit together, before any of it is computed."""
    if bits not in (2, 3, 4, 8):
        raise ValueError(f'bits={bits}: packed weights have 2, 3, 4 or 8.')
    rows = x.shape[1]
    if words.shape[0] != -(-rows // UNIT) * bits or words.dtype != jnp.int32:
        raise ValueError(
            f'words are {words.dtype} {list(words.shape)}: {rows} rows of {bits} bits take int32 '
            f'[{-(-rows // UNIT) * bits}, N].'
        )
    if groups is None:
        expected = -(-rows // group_size) if group_size else 1
        if scales.shape != (expected, words.shape[1]):
            raise ValueError(
                f'scales are {list(scales.shape)}: {rows} rows in groups of {group_size or rows} '
                f'take [{expected}, {words.shape[1]}].'
            )
    elif groups.shape != (rows,):
        raise ValueError(f'groups are {list(groups.shape)}: each of {rows} rows has one.')
    if zeros is not None and zeros.shape != scales.shape:
        raise ValueError(f'zeros are {list(zeros.shape)}, scales {list(scales.shape)}: one each.')
