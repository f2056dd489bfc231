"""The product with packed weights against NumPy's float64, packed by a packer of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax.models import packed_mosaic, packed_tpu
from belle_jax.models.packed_product import dequantise, packed_product, unpack

BITS = (2, 3, 4, 8)
ROOT = Path(__file__).resolve().parents[2]


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Words of codes [K, N], from the description: a column is a string of bits, lowest first."""
    padded = np.concatenate([codes, np.full((-len(codes) % 32, codes.shape[1]), 1, codes.dtype)])
    string = (padded[:, None, :] >> np.arange(bits)[None, :, None]) & 1
    string = string.reshape(-1, 32, codes.shape[1]).astype(np.uint64)
    words = (string << np.arange(32, dtype=np.uint64)[None, :, None]).sum(axis=1)
    return words.astype(np.uint32).view(np.int32)


def weight(
    rows=96, columns=24, *, bits=4, group=32, symmetric=True, act_order=False, seed=0
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Random arguments of `packed_product` as keywords, and the float64 weight."""
    rng = np.random.default_rng(seed)
    count = -(-rows // group) if group else 1
    codes = rng.integers(0, 2**bits, (rows, columns))
    scales = rng.uniform(0.5, 1.5, (count, columns)).astype(np.float16) / np.float16(2**bits)
    zeros = None if symmetric else rng.integers(0, min(2**bits, 255) + 1, (count, columns))
    groups = np.arange(rows) // (group or rows)
    if act_order:
        groups = rng.permutation(groups)
    point = 2 ** (bits - 1) if zeros is None else zeros[groups]
    exact = scales.astype(np.float64)[groups] * (codes - point)
    arrays = {
        'words': pack(codes, bits),
        'scales': scales,
        'zeros': None if zeros is None else zeros.astype(np.uint8),
        'groups': groups.astype(np.int32) if act_order else None,
    }
    given: dict[str, Any] = {
        name: None if a is None else jnp.asarray(a) for name, a in arrays.items()
    }
    return given | {'bits': bits, 'group_size': group}, exact, codes


def activations(rows: int, inputs: int, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), (rows, inputs)).astype(dtype)


def error(out, exact) -> float:
    """The largest deviation, as a fraction of the largest entry."""
    return np.abs(np.asarray(out, np.float64) - exact).max() / np.abs(exact).max()


@pytest.mark.parametrize('bits', BITS)
@pytest.mark.parametrize('rows', [32, 96, 172])
def test_unpacking_gives_the_codes_that_were_packed(bits, rows):
    given, _, codes = weight(rows, bits=bits)
    np.testing.assert_array_equal(unpack(given['words'], bits, rows), codes)


def test_words_of_four_bits_lie_as_the_docstring_says():
    words = pack(np.tile(np.arange(1, 9), 4)[:, None], 4).view(np.uint32)
    assert [hex(word) for word in words[:, 0]] == ['0x87654321'] * 4


@pytest.mark.parametrize('group', [0, 20, 32, 64])
@pytest.mark.parametrize('bits', BITS)
def test_the_product_is_that_of_the_dequantised_weight(bits, group):
    """Of rows that groups divide, and of some that they do not."""
    for rows, act_order, symmetric, count in (
        (192, False, True, 8),
        (192, False, False, 1),
        (172, False, True, 1),
        (172, True, False, 8),
    ):
        given, exact, _ = weight(
            rows, 200, bits=bits, group=group, symmetric=symmetric, act_order=act_order
        )
        x = activations(count, rows)
        out = packed_product(x, **given)
        assert out.dtype == jnp.float32
        assert error(out, np.asarray(x, np.float64) @ exact) < 1e-6


def test_bfloat16_activations_meet_a_weight_that_is_rounded_once():
    given, exact, _ = weight(128, 64, bits=4, symmetric=False)
    x = activations(8, 128, jnp.bfloat16)
    out = packed_product(x, **given)
    assert out.dtype == jnp.bfloat16
    rounded = np.asarray(jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16), np.float64)
    assert error(out, np.asarray(x, np.float64) @ rounded) < 2**-8


def test_blocks_of_columns_are_only_a_way_to_go_through_them(monkeypatch):
    given, exact, _ = weight(96, 200, bits=4, symmetric=False)
    monkeypatch.setattr('belle_jax.models.packed_product.BLOCK_BYTES', 1)
    x = activations(3, 96)
    assert error(packed_product(x, **given), np.asarray(x, np.float64) @ exact) < 1e-6


def test_gradients_are_those_of_the_dequantised_product():
    given, exact, _ = weight(172, 48, bits=3, symmetric=False, act_order=True)
    x, out_gradient = activations(5, 172), activations(5, 48)
    scales = given.pop('scales').astype(jnp.float32)

    def plain(x, scales):
        static = {name: given[name] for name in ('words', 'zeros', 'groups', 'bits', 'group_size')}
        return x @ dequantise(scales=scales, rows=172, **static)

    def packed(x, scales):
        return packed_product(x, scales=scales, **given)

    for ours, theirs in zip(
        jax.vjp(packed, x, scales)[1](out_gradient), jax.vjp(plain, x, scales)[1](out_gradient)
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    x_gradient = jax.grad(lambda x: jnp.vdot(packed(x, scales), out_gradient))(x)
    assert error(x_gradient, np.asarray(out_gradient, np.float64) @ exact.T) < 1e-6


def test_the_forward_pass_on_a_cpu_has_no_float_weight():
    given, _, _ = weight(1024, 1536, bits=4, group=128)
    x = activations(1, 1024)
    text = str(jax.jit(lambda x: packed_product(x, **given)).lower(x).compile().as_text())
    assert 's32[128,1536]' in text
    assert 'f32[1024,1536]' not in text


@pytest.mark.parametrize('layout', [('fsdp', 'tensor'), ('tensor', 'fsdp'), (None, 'tensor')])
def test_a_sharded_product_gathers_no_weight(layout):
    given, exact, _ = weight(256, 512, bits=4, group=64, symmetric=False)
    mesh = jax.make_mesh((2, 2), ('fsdp', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    on_mesh = jax.sharding.NamedSharding(mesh, jax.P(*layout))
    arrays = {name: jax.device_put(given[name], on_mesh) for name in ('words', 'scales', 'zeros')}
    x = activations(8, 256)

    def product(x, arrays):
        return packed_product(x, **arrays, bits=4, group_size=64)

    with jax.set_mesh(mesh):
        compiled = jax.jit(product).lower(x, arrays).compile()
        assert error(compiled(x, arrays), np.asarray(x, np.float64) @ exact) < 1e-6
    assert 'all-gather' not in str(compiled.as_text())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'bits': 5}, 'bits=5'),
        ({'bits': 8}, 'words are'),
        ({'group_size': 16}, 'scales are'),
        ({'groups': jnp.zeros(3, jnp.int32)}, 'groups are'),
        ({'zeros': jnp.zeros((1, 24), jnp.uint8)}, 'zeros are'),
        ({'backend': 'cuda'}, 'backend='),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    given, _, _ = weight()
    with pytest.raises(ValueError, match=message):
        packed_product(activations(2, 96), **(given | change))


@pytest.mark.parametrize(
    ('bits', 'group', 'rows', 'columns', 'symmetric', 'count'),
    [
        (4, 32, 256, 256, True, 3),
        (4, 64, 1152, 300, False, 20),
        (8, 128, 1024, 256, False, 300),
        (2, 64, 512, 256, False, 8),
        (4, 0, 172, 200, True, 1),
    ],
)
def test_the_kernel_for_tpus_computes_it(bits, group, rows, columns, symmetric, count):
    given, exact, _ = weight(rows, columns, bits=bits, group=group, symmetric=symmetric)
    x = activations(count, rows)
    w, s, z = (given[name] for name in ('words', 'scales', 'zeros'))
    out = packed_tpu.product(x, w, s, z, bits, group or rows, interpret=True)
    assert out.shape == (count, columns)
    assert error(out, np.asarray(x, np.float64) @ exact) < 1e-6


@pytest.fixture
def interpreter(monkeypatch):
    """Pallas' interpreter of GPU kernels; that of JAX 0.10 is taught to transpose operands."""
    from jax._src.pallas.mosaic.interpret import utils
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks, params
    from jax._src.state.types import TransposeTransform

    def wgmma(*, token, device_id, thread_id, **given):
        memory = gpu_callbacks._get_shared_memory()
        thread = memory.get_global_thread_id(int(device_id), int(thread_id))

        def read(operand):
            transforms = given[f'{operand}_transforms']
            kept = tuple(t for t in transforms if not isinstance(t, TransposeTransform))
            where = jax.tree.map(int, gpu_callbacks._remove_noop_transforms(kept))
            key = given[f'{operand}_allocation_key_as_array']
            key = gpu_callbacks.HostAllocationKey.from_array(key)
            value: Any = memory.get_buffer_content(key, utils.to_range(where), thread)[0]
            return key, value.T if len(kept) < len(transforms) else value

        (key, total), (_, a), (_, b) = read('acc'), read('a'), read('b')
        memory.store_buffer_content(key, (), total + np.matmul(a, b, dtype=np.float32), thread)
        return token

    if jax.__version__.startswith('0.10.'):
        monkeypatch.setattr(gpu_callbacks, 'wgmma', wgmma)
    return params.InterpretGPUParams(detect_races=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('bits', 'group', 'rows', 'symmetric', 'count', 'parts'),
    [
        (4, 64, 768, False, 3, 1),  # more steps than are under way at a time
        (4, 32, 256, True, 16, 2),
        (8, 128, 384, False, 8, 3),
        (2, 64, 128, True, 1, 1),
        (4, 128, 512, False, 130, 1),
        (8, 0, 256, False, 70, 1),
    ],
)
def test_the_kernel_for_gpus_computes_it(
    bits, group, rows, symmetric, count, parts, interpreter, monkeypatch
):
    from jax._src.pallas.mosaic_gpu.interpret.interpret_pallas_call import get_races

    if count <= 64 and not jax.__version__.startswith('0.10.'):
        pytest.skip('the fixture teaches the interpreter of JAX 0.10 alone to transpose')
    monkeypatch.setattr(packed_mosaic, 'BLOCKS', parts)
    given, exact, _ = weight(rows, 128, bits=bits, group=group, symmetric=symmetric)
    x = activations(count, rows, jnp.bfloat16)
    w, s, z = (given[name] for name in ('words', 'scales', 'zeros'))
    out = packed_mosaic.product(x, w, s, z, bits, group or rows, interpreter)
    assert out.shape == (count, 128)
    assert error(out, np.asarray(x, np.float64) @ exact) < 2**-8
    assert not get_races().races_found


COMPILED = [
    ('v5e:2x2', '4096x11008', (32, 128), '--zeros'),
    ('h200:1', '11008x4096', (64, 0), '--nozeros'),
    pytest.param('v5e:2x2', '11008x4096', (64, 0), '--nozeros', marks=pytest.mark.soak),
    pytest.param('h200:1', '4096x11008', (32, 128), '--zeros', marks=pytest.mark.soak),
]


@pytest.mark.slow
@pytest.mark.parametrize(('target', 'shape', 'groups', 'zeros'), COMPILED)
def test_kernels_compile_and_hold_no_float_weight(target, shape, groups, zeros, compilers):
    command = [
        *(sys.executable, '-m', 'benchmarks.packed_product', f'--target={target}', zeros),
        *('--dtype=bfloat16', f'--shape={shape}', *(f'--group_size={group}' for group in groups)),
        *('--batch=1', '--batch=512', '--bits=2', '--bits=4', '--bits=8'),
    ]
    done = subprocess.run(command, cwd=ROOT, env=compilers, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)['rows']
    assert len(rows) == 6 * len(groups)
    for row in rows:
        kernel = 'tpu_custom_call' if target.startswith('v5e') else 'mosaic_gpu_v2'
        assert kernel in row['kernels']
        inputs, outputs = row['inputs'], row['outputs']
        assert f's32[{inputs // 32 * row["bits"]},{outputs}]' in row['shapes']
        for shape in row['shapes']:
            sizes = [int(n) for n in shape[shape.index('[') + 1 : -1].split(',') if n]
            if not shape.startswith('s32'):
                assert np.prod(sizes, dtype=int) < inputs * outputs, f'{shape} is a whole weight'
        # Activations in another order and, decoding, the parts of the contraction.
        assert row['temporary_bytes'] < inputs * outputs / 2


@pytest.mark.parametrize('backend', ['mosaic_gpu', 'mosaic_tpu'])
def test_what_a_kernel_does_not_do_is_refused(backend):
    cases: list[dict[str, Any]] = [{'bits': 3}, {'act_order': True}, {'group': 20}]
    for case in cases:
        given, _, _ = weight(128, 128, **case)
        with pytest.raises(ValueError, match='use backend=xla'):
            packed_product(activations(2, 128, jnp.bfloat16), **given, backend=backend)
