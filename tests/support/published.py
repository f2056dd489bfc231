"""Small models of both families with published tensors of random numbers."""

from pathlib import Path

import numpy as np
import pytest

from belle_jax import families
from belle_jax.families import Architecture
from belle_jax.weights.tensors import DTYPES, Stored

RNG = np.random.default_rng(7)
LLAMA = Architecture(
    vocab_size=203,
    embed=24,
    layers=3,
    q_heads=6,
    kv_heads=2,
    head_dim=8,
    mlp=40,
    attention_bias=True,
    mlp_bias=True,
)
BLOOM = Architecture(family='bloom', vocab_size=131, embed=42, layers=2, q_heads=14, tied=True)
BOTH = pytest.mark.parametrize('architecture', [LLAMA, BLOOM], ids=['llama', 'bloom'])


def published(architecture, dtype='float32') -> dict[str, Stored]:
    """Random tensors under the table's names."""
    return {
        name: Stored(name, Path('x.bin'), RNG.normal(size=e.their_shape).astype(DTYPES[dtype]))
        for e in families.tensor_maps(architecture)
        for name in e.their_names
    }
