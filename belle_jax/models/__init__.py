"""Models: what they are made of, and how arrays become one that runs."""

from belle_jax.models.blueprint import Blueprint, Execution, ParamSpec
from belle_jax.models.building import (
    build,
    count_parameters,
    initialise,
    parameters,
    regroup,
    specs,
    unstack,
)
from belle_jax.models.decoder import Decoder, empty_cache

__all__ = [
    'Blueprint',
    'Decoder',
    'Execution',
    'ParamSpec',
    'build',
    'count_parameters',
    'empty_cache',
    'initialise',
    'parameters',
    'regroup',
    'specs',
    'unstack',
]
