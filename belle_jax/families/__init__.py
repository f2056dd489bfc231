"""Model families: what each says about its models, JAX aside.

A family is an object, which `of(architecture)` gives; outside of this folder and of its file in
`models` nothing spells its name. A new one is a file here, its blocks there, and a line below, or
`add(family)` from anywhere else.
"""

from belle_jax.families.architecture import (
    FAMILIES,
    PRESETS,
    Architecture,
    Family,
    Rope,
    add,
    in_published_order,
    of,
    tensor_maps,
)
from belle_jax.families.bloom import BloomFamily
from belle_jax.families.llama import LlamaFamily
from belle_jax.families.low_rank import LowRank, adapter_maps
from belle_jax.families.packing import Packing, is_matrix, packed_maps
from belle_jax.families.published import HEAD, TensorMap

__all__ = [
    'FAMILIES',
    'HEAD',
    'PRESETS',
    'Architecture',
    'Family',
    'LowRank',
    'Packing',
    'Rope',
    'TensorMap',
    'adapter_maps',
    'add',
    'in_published_order',
    'is_matrix',
    'of',
    'packed_maps',
    'tensor_maps',
]

add(LlamaFamily())
add(BloomFamily())
