"""Time of one product with a packed weight, each backend against the same product with a dense one.

    python -m benchmarks.packed_product                                      # CPU, float32
    python -m benchmarks.packed_product --dtype=bfloat16 --batch=1 --batch=16 --batch=2048   # a GPU
    python -m benchmarks.packed_product --dtype=bfloat16 --target=h200:1      # compiles, no device

All sides take turns in the same process; the best time of each counts. They go through several
weights in a row, together larger than any cache, as decoding does with its layers. Before it is
timed, what a backend computes is compared with XLA's path. Bytes are those of the packed weight
alone; `bandwidth_share` is what reading them once took of the memory's bandwidth, where known.
With --target nothing runs: the kernels are compiled for h200:1 or a TPU topology by the compilers
that `.ci/compilers FOLDER` installs, and what the programs hold is printed.
"""

import functools
import itertools
import json
import os
import re
import sys
import time
from typing import Any

from absl import app, flags

from benchmarks.figures import write

SHAPES = flags.DEFINE_multi_string('shape', ['4096x11008', '4096x4096'], 'Inputs x outputs.')
BATCHES = flags.DEFINE_multi_integer('batch', [1, 8], 'Rows of activations.')
BITS = flags.DEFINE_multi_integer('bits', [4, 8], 'Of a code.')
GROUPS = flags.DEFINE_multi_integer('group_size', 128, 'Inputs that share a scale; 0: all.')
ZEROS = flags.DEFINE_bool('zeros', False, 'With zero points; symmetric without.')
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of activations.')
WEIGHTS = flags.DEFINE_integer('weights', 0, 'Weights in a row; 0: as many as take 256 MB packed.')
REPEATS = flags.DEFINE_integer('repeats', 10, 'Runs of each side; the best counts.')
TARGET = flags.DEFINE_string('target', '', 'Compiles for h200:1, v5e:2x2, …, and measures nothing.')
OUTPUT = flags.DEFINE_string('output', 'runs/benchmarks/packed_product.json', 'Where figures go.')

# Bytes a second, by the vendors' data sheets.
BANDWIDTHS = {'H100': 3.35e12, 'H200': 4.8e12, 'A100': 2.04e12, 'v5 lite': 8.19e11, 'v5e': 8.19e11}
KERNELS = {'gpu': 'mosaic_gpu', 'tpu': 'mosaic_tpu'}


def packed(rng, inputs: int, outputs: int, bits: int, group: int) -> dict:
    """Random packed arrays of a shape."""
    import jax.numpy as jnp
    import numpy as np

    words = rng.integers(-(2**31), 2**31, (inputs // 32 * bits, outputs), dtype=np.int64)
    count = -(-inputs // group) if group else 1
    scales = rng.uniform(1e-3, 2e-3, (count, outputs)).astype(np.float16)
    arrays = {'words': jnp.asarray(words.astype(np.int32)), 'scales': jnp.asarray(scales)}
    if ZEROS.value:
        zeros = rng.integers(0, 2**bits, (count, outputs)).astype(np.uint8)
        arrays['zeros'] = jnp.asarray(zeros)
    return arrays


def through(product):
    """A compiled function that takes x through a list of weights, one after the other."""
    import jax

    @jax.jit
    def run(x, weights):
        total = product(x, weights[0])
        for weight in weights[1:]:
            x, total = jax.lax.optimization_barrier((x, total))  # one product after the other
            total = total + product(x, weight)
        return total

    return run


def sides(bits: int, group: int) -> dict:
    """The functions that are compared, by name; each takes x and one weight."""
    import jax
    import jax.numpy as jnp

    from belle_jax.models.packed_product import packed_product

    def dense(x, weight):
        return jax.lax.dot(x, weight, preferred_element_type=jnp.float32).astype(x.dtype)

    def through_backend(x, weight, backend):
        return packed_product(x, **weight, bits=bits, group_size=group, backend=backend)

    kernel = KERNELS.get(jax.default_backend())
    backends = ['xla', kernel] if kernel else ['xla']
    packed_sides = {name: functools.partial(through_backend, backend=name) for name in backends}
    return {'dense': dense} | packed_sides


def measure(inputs: int, outputs: int, bits: int, group: int) -> list[dict]:
    """A row of figures for each batch size."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    dtype = jnp.dtype(DTYPE.value)
    size = inputs * outputs * bits // 8
    count = WEIGHTS.value or max(2, -(-(256 << 20) // size))
    weights = [packed(rng, inputs, outputs, bits, group) for _ in range(count)]
    size = sum(a.nbytes for a in weights[0].values())
    values = jax.random.normal(jax.random.key(0), (inputs, outputs), jnp.float32)
    dense_weights = [(values * (i + 1)).astype(dtype) for i in range(count)]
    functions = {name: through(product) for name, product in sides(bits, group).items()}
    rows = []
    for batch in BATCHES.value:
        x = jax.random.normal(jax.random.key(1), (batch, inputs)).astype(dtype)
        row: dict[str, Any] = {'inputs': inputs, 'outputs': outputs, 'bits': bits, 'batch': batch}
        row |= {
            'group_size': group,
            'packed_bytes': size,
            'weights': count,
            'microseconds': {},
            'difference': {},
        }
        given = {name: dense_weights if name == 'dense' else weights for name in functions}
        expected = np.asarray(functions['xla'](x, weights), np.float64)
        for name, function in functions.items():  # compiles as well
            out = np.asarray(function(x, given[name]), np.float64)
            if name not in ('dense', 'xla'):
                row['difference'][name] = np.abs(out - expected).max() / np.abs(expected).max()
        best = dict.fromkeys(functions, float('inf'))
        for _ in range(REPEATS.value):
            for name, function in functions.items():
                began = time.perf_counter()
                jax.block_until_ready(function(x, given[name]))
                best[name] = min(best[name], (time.perf_counter() - began) / count)
        row['microseconds'] = {name: round(1e6 * taken, 1) for name, taken in best.items()}
        dense_time = best.pop('dense')
        row['times_dense'] = {name: round(dense_time / taken, 3) for name, taken in best.items()}
        kind = jax.devices()[0].device_kind
        peak = next((peak for name, peak in BANDWIDTHS.items() if name in kind), None)
        if peak:
            share = {name: round(size / taken / peak, 3) for name, taken in best.items()}
            row['bandwidth_share'] = share
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def compile_for(target: str, shapes: list[list[int]]) -> list[dict]:
    """What the kernels compile to: custom calls, shapes of all buffers, bytes of temporaries."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from belle_jax.models.packed_product import packed_product
    from belle_jax.planning.topology import topology

    devices, platform, options = topology(target)
    mesh = jax.sharding.Mesh(np.asarray(devices[:1]), ('device',))
    here = jax.sharding.NamedSharding(mesh, jax.P())
    backend = KERNELS['tpu' if platform == 'tpu' else 'gpu']
    rows = []
    settings = itertools.product(shapes, GROUPS.value, BITS.value, BATCHES.value)
    for (inputs, outputs), group, bits, batch in settings:
        groups = -(-inputs // group) if group else 1
        arrays = {'words': ((inputs // 32 * bits, outputs), jnp.int32)}
        arrays['scales'] = ((groups, outputs), jnp.float16)
        if ZEROS.value:
            arrays['zeros'] = ((groups, outputs), jnp.uint8)
        given = {
            name: jax.ShapeDtypeStruct(*array, sharding=here)
            for name, array in {'x': ((batch, inputs), DTYPE.value), **arrays}.items()
        }
        product = functools.partial(packed_product, bits=bits, group_size=group, backend=backend)
        traced: Any = jax.jit(product).trace(**given)
        lowered = traced.lower(lowering_platforms=(platform,))
        compiled = lowered.compile(compiler_options=options)
        text = compiled.as_text()
        rows.append(
            {
                'inputs': inputs,
                'outputs': outputs,
                'bits': bits,
                'batch': batch,
                'kernels': sorted(set(re.findall(r'custom_call_target="([^"]+)"', text))),
                'shapes': sorted(set(re.findall(r'\b[a-z]+\d+\[[\d,]*\]', text))),
                'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
            }
        )
    return rows


def main(argv: list[str]) -> None:
    """Measures, prints JSON, and writes it to --output."""
    del argv
    if TARGET.value:
        os.environ['JAX_PLATFORMS'] = 'cpu'
        os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')

    shapes = [[int(size) for size in shape.split('x')] for shape in SHAPES.value]
    if TARGET.value:
        print(json.dumps({'target': TARGET.value, 'rows': compile_for(TARGET.value, shapes)}))
        return
    settings = itertools.product(shapes, BITS.value, GROUPS.value)
    rows = [row for (i, o), bits, group in settings for row in measure(i, o, bits, group)]
    write(
        OUTPUT.value,
        'packed_product',
        dtype=DTYPE.value,
        symmetric=not ZEROS.value,
        rows=rows,
    )


if __name__ == '__main__':
    app.run(main)
