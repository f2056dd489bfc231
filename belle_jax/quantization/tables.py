"""Tables over the vocabulary in a few bits, by rounding: what one token's row loses, no other does.

An embedding is looked up, so nothing can make up for its errors; the output's table is read by the
last hidden states alone. 8 bits are as good as exact, and halve a float16 table.
"""

from typing import NamedTuple

import jax
import numpy as np

from belle_jax import sharding
from belle_jax.quantization import grid
from belle_jax.quantization.grid import Codes, Grid
from belle_jax.runs.parameters import Parameters
from belle_jax.weights import bitpacking

ROWS = 8192  # of a table at a time
SHRINKS = 20


class Table(NamedTuple):
    """A quantised table."""

    words: np.ndarray  # int32 [W, V], as checkpoints have it
    scales: np.ndarray  # float16 [G, V]
    rows: np.ndarray  # float32 [V padded, D], what the codes stand for


def quantised(source: Parameters, name: str, bits: int, group_size: int) -> Table:
    """Rounds a table, each row in groups of channels.

    Args:
        source: The model.
        name: Of the parameter, [V padded, D].
        bits: Of a code.
        group_size: Channels of a group; 0: all of them.
    """
    size, width = source.architecture.vocab_size, source.shapes[name][1]
    codes = Codes(bits, symmetric=True, shrinks=SHRINKS)
    rounded = jax.jit(grid.rounded, static_argnums=(1, 2))
    words, scales, out = [], [], np.zeros(source.shapes[name], np.float32)
    groups = np.arange(width) // (group_size or width)
    for start in range(0, size, ROWS):
        rows = slice(start, min(start + ROWS, size))
        w = source.read(name, (rows, slice(0, width)), np.dtype(np.float32)).T
        code, made = sharding.on_host(rounded(w, codes, group_size))
        out[rows] = grid.dequantise(code, Grid(*(part[groups] for part in made))).T
        words.append(bitpacking.pack(code.astype(np.uint8), bits))
        scales.append(made.scale.astype(np.float16))
    return Table(np.concatenate(words, axis=1), np.concatenate(scales, axis=1), out)
