"""Models: what they are made of by shape alone, and how arrays become a model that runs.

Parameters are a flat dict from checkpoint names ('blocks.0.mlp.up.kernel') to arrays; a model is
an NNX module that holds them. `build` and `parameters` go from one to the other and cost nothing.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax import sharding
from belle_jax.config import Architecture
from belle_jax.models.bloom import Bloom
from belle_jax.models.decoder import Decoder
from belle_jax.models.layers import Cache, Execution
from belle_jax.models.llama import Llama

__all__ = [
    'Decoder',
    'Execution',
    'ParamSpec',
    'build',
    'count_parameters',
    'empty_cache',
    'initialise',
    'parameters',
    'specs',
    'unstack',
]

FAMILIES = {'llama': Llama, 'bloom': Bloom}


class ParamSpec(NamedTuple):
    """A parameter's declaration."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str


def specs(architecture: Architecture) -> dict[str, ParamSpec]:
    """Every parameter of a model by name, without an array being made."""
    flat = nnx.to_flat_state(nnx.state(_skeleton(architecture, Execution())))
    return {
        _name(path): ParamSpec(
            v.get_value().shape, v.get_metadata()['axes'], v.get_metadata()['init']
        )
        for path, v in flat
    }


def count_parameters(architecture: Architecture) -> int:
    """Parameters of a model, padding of the vocabulary left out."""
    padding = (architecture.padded_vocab - architecture.vocab_size) * architecture.embed
    total = sum(_size(spec.shape) for spec in specs(architecture).values())
    return total - padding * (1 if architecture.tied else 2)


def build(
    architecture: Architecture,
    params: Mapping[str, jax.Array],
    execution: Execution | None = None,
    **settings: Any,
) -> Decoder:
    """A model from its parameters.

    Args:
        architecture: The shape.
        params: Arrays by checkpoint name.
        execution: How to run it; or its fields as keywords.
        **settings: Fields of `Execution`.
    Returns:
        The model; its arrays are those of `params`.
    Raises:
        ValueError: a parameter is missing, left over or of another shape.
    """
    execution = dataclasses.replace(execution or Execution(), **settings)
    groups = _groups(params)
    graphdef, state = nnx.split(_skeleton(architecture, execution, groups))
    flat = list(nnx.to_flat_state(state))
    wanted = {_name(path): v.get_value().shape for path, v in flat}
    if difference := wanted.keys() ^ params.keys():
        name = min(difference)
        problem = 'is missing' if name in wanted else 'belongs to no layer of this architecture'
        raise ValueError(f"parameter {name} {problem}: the weights are another model's.")
    for name, shape in wanted.items():
        if tuple(params[name].shape) != shape:
            raise ValueError(
                f'parameter {name} has shape {tuple(params[name].shape)} where the architecture '
                f"has {shape}: the weights are another model's."
            )
    filled = [(path, v.replace(params[_name(path)])) for path, v in flat]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def parameters(model: Decoder) -> dict[str, jax.Array]:
    """A model's arrays by checkpoint name."""
    return {_name(path): v.get_value() for path, v in nnx.to_flat_state(nnx.state(model))}


def initialise(
    architecture: Architecture,
    key: jax.Array,
    shardings: Mapping[str, Any] | None = None,
    dtype: Any = jnp.float32,
) -> dict[str, jax.Array]:
    """Random parameters, the same on every mesh.

    Args:
        architecture: The shape; weights are normal with its init_std, norms one, biases zero.
        key: A JAX random key.
        shardings: Where each parameter goes, by name; by default to the default device.
        dtype: Of the arrays.
    Returns:
        Arrays by checkpoint name; rows that pad the vocabulary are zero.
    """
    declared = specs(architecture)

    def make(key):
        return {
            name: _initial(architecture, name, spec, key, dtype) for name, spec in declared.items()
        }

    return jax.jit(make, out_shardings=dict(shardings) if shardings else None)(key)


def unstack(model: Decoder) -> Decoder:
    """The same model with every layer a group of its own: for decoding, where slices of a stack
    would
    be copied out for every token."""
    params = {}
    for name, value in parameters(model).items():
        if not name.startswith('blocks.'):
            params[name] = value
            continue
        _, group, rest = name.split('.', 2)
        before = sum(_groups(parameters(model))[: int(group)])
        for layer in range(value.shape[0]):
            params[f'blocks.{before + layer}.{rest}'] = value[layer : layer + 1]
    return build(model.architecture, params, model.execution)


def empty_cache(model: Decoder, batch: int, length: int) -> tuple[Cache, ...]:
    """A key-value cache: for each layer keys and values [B, K, S, H] of zeros.

    Args:
        model: Decides layers, heads and dtype.
        batch: B.
        length: S in tokens.
    """
    a = model.architecture
    shape = (batch, a.kv_heads, length, a.head_dim)

    def zeros():
        return sharding.constrain(
            jnp.zeros(shape, model.dtype), ('batch', 'heads', 'length', 'head_dim')
        )

    return tuple((zeros(), zeros()) for _ in range(a.layers))


def _skeleton(architecture: Architecture, execution: Execution, groups=None) -> Decoder:
    family = FAMILIES[architecture.family]
    return family(architecture, execution, groups or (architecture.layers,))


def _groups(params: Mapping[str, Any]) -> list[int]:
    """Layers in each group, read off the names and shapes of the parameters."""
    sizes = {
        int(name.split('.')[1]): value.shape[0]
        for name, value in params.items()
        if name.startswith('blocks.')
    }
    return [sizes[i] for i in sorted(sizes)]


def _initial(architecture, name, spec, key, dtype):
    if spec.init == 'ones':
        return jnp.ones(spec.shape, dtype)
    if spec.init == 'zeros':
        return jnp.zeros(spec.shape, dtype)
    # The key comes from the name, not from an order: a new parameter changes no other's values.
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    value = architecture.init_std * jax.random.normal(key, spec.shape, jnp.float32)
    if spec.axes[0] == 'vocab':
        real = jnp.arange(spec.shape[0]) < architecture.vocab_size
        value = jnp.where(real[:, None], value, 0.0)
    return value.astype(dtype)


def _name(path) -> str:
    return '.'.join(map(str, path))


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size
