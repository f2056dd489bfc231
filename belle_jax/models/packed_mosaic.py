"""The product with a packed weight on Hopper GPUs: words are read once, floats live on the chip.

A word of `bits`-bit codes has 32 / bits slots. Two warpgroups take 64 columns each; a third keeps
copies of the next words and activations under way. From eight rows of words slot after slot becomes
bfloat16 floats, which go to shared memory and from there into the tensor cores. Codes are not
moved: the activations' columns are put in the order in which the slots come.

Up to 64 rows of activations (decoding) the contraction is divided among thread blocks, and the
weight is the operand that has 64 rows in any case; beyond that the activations are.

Bytes that a product of M rows moves, by its block shapes, P being the parts of the contraction:
    decoding  words once, K · N · bits / 8; scales and zeros once, 3 · G · N; activations for every
              128 columns, 2 · M · K, which the second-level cache holds; parts 4 · P · M · N
    prefill   words, scales and zeros for every 128 rows; activations as above; output 2 · M · N
For LLaMA's 4096 × 11008 at 4 bits in groups of 128, 8 rows and no zeros that is 22.5 + 0.7 MB of
weight, 5.6 MB of activations and 1.4 MB of parts (P = 4); a bfloat16 weight has 90 MB.

Legend: M rows of activations, K contracted inputs, N outputs, G groups.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

STEP = 128
"""Inputs that are copied at a time."""
WARPGROUPS, COLUMNS = 2, 64
"""That multiply, and the columns of each."""
WIDTH = WARPGROUPS * COLUMNS
SLAB = 8
"""Rows of words that become floats at a time."""
FEW = (8, 16, 32, 64)
"""Rows of activations up to which the contraction is divided; fewer are filled up."""
MANY = STEP
"""Rows of a block beyond that; its output passes where the floats of a step were."""
BLOCKS = 264
"""Thread blocks that decoding aims at: two for each of 132 multiprocessors."""
SWIZZLED = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
# Eight rows of 64 entries: a warp has two rows and a thread four neighbours, so that neither the
# reading of int32 nor the writing of swizzled bfloat16 meets a bank twice.
LAYOUT = plgpu.Layout.TILED(
    plgpu.Tiling(((8, 64), (2, 64), (4,))), warp_dims=(-5,), lane_dims=(-3, -2), vector_dim=-1
)


class KernelPlan(NamedTuple):
    """What a kernel is compiled for."""

    bits: int
    group_size: int
    block_m: int
    few: bool
    parts: int
    """Of the contraction; 1 with many rows."""
    interpret: Any

    @property
    def word_rows(self) -> int:
        """Rows of words of a step."""
        return STEP * self.bits // 32

    @property
    def tile_rows(self) -> int:
        """Rows of words whose floats lie together, slot after slot: 64 inputs; 128 of 2 bits."""
        return max(SLAB, 64 * self.bits // 32)

    @property
    def group_rows(self) -> int:
        """Rows of words of a group."""
        return self.group_size * self.bits // 32

    @property
    def late(self) -> bool:
        """Whether a group's scale waits for the sum of its products, where code - zero is exact."""
        return self.group_rows >= self.tile_rows

    def cast(self, value, layout):
        return value if self.interpret else plgpu.layout_cast(value, layout)


def product(x, words, scales, zeros, bits: int, group_size: int, interpret=None):
    """x times the weight; arguments as `packed_product`'s.

    From groups of 64 on (128 at 2 bits) the weight is not rounded to the dtype of x: scales
    multiply sums.

    Args:
        interpret: Parameters of Pallas' interpreter of GPU kernels, which runs on a CPU, slowly.
    Raises:
        ValueError: what these kernels do not do; XLA's path does.
    """
    (m, k), n = x.shape, words.shape[1]
    if bits == 3 or x.dtype != jnp.bfloat16 or k % STEP or n % WIDTH:
        raise ValueError(
            'backend=mosaic_gpu takes bfloat16 and 2, 4 or 8 bits, inputs and outputs in multiples '
            f'of {STEP}, not {x.dtype}, {bits} bits, {k} and {n}: use backend=xla.'
        )
    if group_size < k and group_size not in (32, 64) and group_size % STEP:
        raise ValueError(
            f'backend=mosaic_gpu takes groups of 32, 64, multiples of {STEP} or whole columns, not '
            f'{group_size}: use backend=xla.'
        )
    block_m = next((size for size in FEW if m <= size), MANY)
    few = block_m in FEW
    parts = min(k // STEP, -(-BLOCKS * WIDTH // n)) if few else 1
    plan = KernelPlan(bits, min(group_size, k), block_m, few, parts, interpret)
    x = jnp.pad(x, ((0, -m % block_m), (0, 0)))
    x = x.reshape(len(x), -1, plan.tile_rows, 32 // bits).swapaxes(2, 3).reshape(x.shape)
    out = _call([x, words, scales, *([] if zeros is None else [zeros])], plan)
    if few:
        out = out.sum(axis=0).T.astype(x.dtype)
    return out[:m]


def _call(given, plan: KernelPlan):
    """The kernel, over blocks of columns and over parts of the contraction or blocks of rows."""
    x, words, *of_groups = given
    m, n = len(x), words.shape[1]
    out = ((plan.parts, n, m), jnp.float32) if plan.few else ((m, n), x.dtype)
    stages, groups = 4 if plan.few else 3, max(1, STEP // plan.group_size)
    scratch = {
        'x_smem': plgpu.SMEM((stages, plan.block_m, STEP), x.dtype, transforms=SWIZZLED),
        'words_smem': plgpu.SMEM((stages, plan.word_rows, WIDTH), words.dtype),
        'weight_smem': plgpu.SMEM((WARPGROUPS, STEP, COLUMNS), x.dtype, transforms=SWIZZLED),
        'loaded': plgpu.Barrier(num_arrivals=len(given), num_barriers=stages),
        'consumed': plgpu.Barrier(num_arrivals=WARPGROUPS, num_barriers=stages),
    }
    for name, array in zip(('scales_smem', 'zeros_smem'), of_groups):
        scratch[name] = plgpu.SMEM((stages, groups, WIDTH), array.dtype)
    call = plgpu.kernel(
        functools.partial(_kernel, plan=plan),
        out_type=jax.ShapeDtypeStruct(*out),
        grid=(n // WIDTH, plan.parts if plan.few else m // plan.block_m),
        grid_names=('columns', 'part'),
        num_threads=WARPGROUPS + 1,
        thread_name='warpgroup',
        scratch_types=scratch,
        compiler_params=plgpu.CompilerParams(
            unsafe_no_auto_barriers=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        interpret=plan.interpret,
    )
    return call(*given)


def _kernel(*gmem, plan: KernelPlan, loaded, consumed, **smem):
    """What each warpgroup of a thread block does: the last one copies, the others multiply."""
    *given_gmem, out_gmem = gmem
    part, warpgroup = lax.axis_index('part'), lax.axis_index('warpgroup')
    columns = lax.axis_index('columns') * WIDTH
    steps, row = given_gmem[0].shape[1] // STEP, part * plan.block_m
    first, last = 0, steps
    if plan.few:
        first, last, row = part * steps // plan.parts, (part + 1) * steps // plan.parts, 0
    stages = smem['x_smem'].shape[0]

    @pl.when(warpgroup == WARPGROUPS)
    def _():
        def step(index, _):
            stage = lax.rem(index - first, stages)

            @pl.when(index - first >= stages)
            def _():
                plgpu.barrier_wait(consumed.at[stage])

            staged = {name: ref.at[stage] for name, ref in smem.items()}
            _copy(given_gmem, staged, loaded.at[stage], index, row, columns, plan)

        lax.fori_loop(first, last, step, None)

    @pl.when(warpgroup < WARPGROUPS)
    def _():
        here = pl.ds(warpgroup * COLUMNS, COLUMNS)
        weight = smem['weight_smem'].at[warpgroup]

        def step(index, total):
            stage = lax.rem(index - first, stages)
            plgpu.barrier_wait(loaded.at[stage])
            staged = {name: ref.at[stage] for name, ref in smem.items()}
            _dequantise(staged, weight, here, plan)
            plgpu.commit_smem()
            total = _multiply(staged, weight, here, total, plan)
            plgpu.commit_smem()  # no warp writes floats before all have multiplied with these

            @pl.when(index + stages < last)
            def _():
                plgpu.barrier_arrive(consumed.at[stage])

            return total

        shape = (COLUMNS, plan.block_m) if plan.few else (plan.block_m, COLUMNS)
        total = plan.cast(jnp.zeros(shape, jnp.float32), plgpu.Layout.WGMMA)
        total = lax.fori_loop(first, last, step, total)
        mine = pl.ds(columns + warpgroup * COLUMNS, COLUMNS)
        if plan.few:
            out_gmem[part, mine, :] = total
        else:
            weight[...] = total.astype(weight.dtype)  # the same shape, and nobody's by now
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(weight, out_gmem.at[pl.ds(row, plan.block_m), mine])
            plgpu.wait_smem_to_gmem(0)


def _copy(given_gmem, smem, loaded, index, row, columns, plan: KernelPlan) -> None:
    """Starts the copies of a step."""
    x_gmem, words_gmem, *groups_gmem = given_gmem
    here, rows = pl.ds(columns, WIDTH), plan.word_rows
    sources = {
        'x_smem': x_gmem.at[pl.ds(row, plan.block_m), pl.ds(index * STEP, STEP)],
        'words_smem': words_gmem.at[pl.ds(index * rows, rows), here],
    }
    for name, ref in zip(('scales_smem', 'zeros_smem'), groups_gmem):
        groups = pl.ds(index * STEP // plan.group_size, smem[name].shape[0])
        sources[name] = ref.at[groups, here]
    for name, source in sources.items():
        plgpu.copy_gmem_to_smem(source, smem[name], loaded)


def _multiply(smem, weight, here, total, plan: KernelPlan):
    """The total and the products of a step, a sum for each group whose scale is still due."""
    size = min(plan.group_size, STEP) if plan.late else STEP
    for number in range(STEP // size):
        inputs = pl.ds(number * size, size)
        x_smem, weight_smem = smem['x_smem'].at[:, inputs], weight.at[inputs, :]

        def multiply(sums, x_smem=x_smem, weight_smem=weight_smem):
            if plan.few:
                plgpu.wgmma(sums, weight_smem.transpose((1, 0)), x_smem.transpose((1, 0)))
            else:
                plgpu.wgmma(sums, x_smem, weight_smem)
            return sums[...]  # once they are there

        sums = pl.run_scoped(multiply, plgpu.WGMMAAccumulatorRef(total.shape, jnp.float32))
        if plan.late:
            axis = 0 if plan.few else 1  # of the columns
            scales = smem['scales_smem'].at[number, here][...]
            scales = plan.cast(scales, plgpu.Layout.WGMMA.reduce(1 - axis)).astype(jnp.float32)
            scales = lax.broadcast_in_dim(scales, total.shape, (axis,))
            sums = sums * plan.cast(scales, plgpu.Layout.WGMMA)
        total = total + sums
    return total


def _dequantise(smem, weight, here, plan: KernelPlan) -> None:
    """Writes the floats of a step: slab after slab of rows of words, slot after slot."""
    for first_row in range(0, plan.word_rows, SLAB):
        words = plan.cast(smem['words_smem'].at[pl.ds(first_row, SLAB), here][...], LAYOUT)
        zeros, scales = jnp.float32(2 ** (plan.bits - 1)), None
        if 'zeros_smem' in smem:
            zeros = _of_groups(smem['zeros_smem'], here, first_row, plan)
        if not plan.late:
            scales = _of_groups(smem['scales_smem'], here, first_row, plan)
        tile, slab = divmod(first_row, plan.tile_rows)
        for slot, floats in _differences(words, zeros, plan.bits):
            if scales is not None:
                floats = (floats.astype(jnp.float32) * scales).astype(weight.dtype)
            place = (tile * 32 // plan.bits + slot) * plan.tile_rows + slab
            weight[pl.ds(place, SLAB), :] = floats


def _of_groups(smem, here, first_row: int, plan: KernelPlan):
    """float32 [8, 64]: what the groups of eight rows of words say."""
    first = min(first_row // plan.group_rows, smem.shape[0] - 1)
    said, shape = None, (SLAB, COLUMNS)
    for group in range(max(1, SLAB // plan.group_rows)):
        row = plan.cast(smem.at[first + group, here][...], LAYOUT.reduce(0))
        row = plan.cast(lax.broadcast_in_dim(row.astype(jnp.float32), shape, (1,)), LAYOUT)
        if said is not None:
            index = plan.cast(lax.broadcasted_iota(jnp.int32, shape, 0), LAYOUT)
            row = jnp.where(index >= group * plan.group_rows, row, said)
        said = row
    return said


def _differences(words, zeros, bits: int):
    """Slots of words, and code - zero of each as bfloat16, exact and without conversions.

    The last bits of a float are an integer above 2^23 in float32 and above 2^7 in bfloat16, where
    two slots of a word are made at a time.
    """
    if bits == 8:
        for slot in range(4):
            codes = lax.shift_right_logical(words, jnp.int32(8 * slot)) & jnp.int32(0xFF)
            floats = lax.bitcast_convert_type(codes | jnp.int32(0x4B000000), jnp.float32)
            yield slot, (floats - (zeros + jnp.float32(2**23))).astype(jnp.bfloat16)
        return
    points = (zeros + jnp.float32(2**7)).astype(jnp.bfloat16)
    half = 16 // bits
    for slot in range(half):
        codes = lax.shift_right_logical(words, jnp.int32(slot * bits))
        pair = codes & jnp.int32((2**bits - 1) * 0x10001) | jnp.int32(0x43004300)
        for offset in (0, half):
            shifted = lax.shift_right_logical(pair, jnp.int32(16)) if offset else pair
            floats = lax.bitcast_convert_type(shifted.astype(jnp.int16), jnp.bfloat16)
            yield slot + offset, floats - points
