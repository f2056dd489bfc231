"""What a model is made of: its declarations, before there is an array.

A module declares each parameter once, with shape, logical axes, initialiser, kind of number and the
part of the model that it is. A declaration holds no numbers (`jax.ShapeDtypeStruct`), `building`
puts arrays in. With `layers` a module declares a stack: one more leading dimension, which
`jax.lax.scan` takes apart again.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax.config import Architecture


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """Everything that decides a model's parameters.

    Attributes:
        architecture: The shape.
        groups: Layers in each group, in order. The layers of a group have the same structure, are
            stacked, and run by one scan. All in one group by default.
    """

    architecture: Architecture
    groups: tuple[int, ...] = ()

    def __post_init__(self):
        layers = self.architecture.layers
        object.__setattr__(self, 'groups', tuple(self.groups) or (layers,))
        if sum(self.groups) != layers or min(self.groups) < 1:
            raise ValueError(f'groups of {self.groups} layers do not make a model of {layers}.')

    def separated(self) -> 'Blueprint':
        """The same model with every layer a group of its own."""
        return dataclasses.replace(self, groups=(1,) * self.architecture.layers)


class ParamSpec(NamedTuple):
    """A parameter's declaration.

    Attributes:
        shape: With the stack's dimension first, where it is part of one.
        axes: The logical axis of each dimension (see `sharding`).
        init: normal, ones or zeros.
        dtype: Of the numbers. Floating-point ones may be held in any floating-point dtype, for
            frozen parameters stay as they came; others in this one alone.
        part: Of the model: base, adapter or head.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str
    dtype: str = 'float32'
    part: str = 'base'


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model's arithmetic is run; the fields are those of `config.Model`."""

    dtype: str = 'float32'
    attention: str = 'auto'
    remat: str = 'none'
    scan: bool = True
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0


def declare(
    shape,
    axes,
    *,
    init: str = 'normal',
    layers: int = 0,
    dtype: str = 'float32',
    part: str = 'base',
) -> nnx.Param:
    """A parameter, by shape alone.

    Args:
        shape: Of one layer.
        axes: The logical axis of each dimension.
        init: normal, ones or zeros.
        layers: Above 0, a stack of that many.
        dtype: Of the numbers.
        part: Of the model: base, adapter or head.
    """
    if layers:
        shape, axes = (layers, *shape), ('layers', *axes)
    declared = jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype))
    return nnx.Param(declared, axes=tuple(axes), init=init, part=part)
