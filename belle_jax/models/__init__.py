"""Models: what they are made of, and how arrays become one that runs."""

from belle_jax.models.blueprint import (
    ParamSpec,
    build,
    count_parameters,
    initialise,
    initialise_adapter,
    parameters,
    regroup,
    skeleton,
    specs,
    unstack,
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
    'initialise',
    'initialise_adapter',
    'parameters',
    'regroup',
    'skeleton',
    'specs',
    'unstack',
]
