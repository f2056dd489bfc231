"""Models: what they are made of, and how arrays become one that runs."""

from belle_jax.models.blueprint import (
    ParamSpec,
    build,
    count_parameters,
    for_decoding,
    initialise,
    initialise_adapter,
    parameters,
    regroup,
    skeleton,
    specs,
)
from belle_jax.models.decoder import Blueprint, Decoder, Execution, empty_cache

__all__ = [
    'Blueprint',
    'Decoder',
    'Execution',
    'ParamSpec',
    'build',
    'count_parameters',
    'empty_cache',
    'for_decoding',
    'initialise',
    'initialise_adapter',
    'parameters',
    'regroup',
    'skeleton',
    'specs',
]
