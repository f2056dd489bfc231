"""From a blueprint to declarations, to arrays, to a model that runs, and back.

Parameters are a flat dict from checkpoint names ('blocks.0.mlp.up.kernel') to arrays; a model is an
NNX module that holds them. `build` and `parameters` go from one to the other and cost nothing.
"""

import dataclasses
import math
import pkgutil
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from belle_jax import families, sharding
from belle_jax.models import adapters
from belle_jax.models.decoder import Blueprint, Decoder, Execution


class ParamSpec(NamedTuple):
    """A parameter's declaration.

    Attributes:
        shape: With the stack's dimension first, where it is part of one.
        axes: The logical axis of each dimension (see `sharding`).
        init: normal, uniform (within the root of one over the inputs), ones or zeros.
        dtype: Of the numbers. Floating-point ones may be held in any floating-point dtype, for
            frozen parameters stay as they came; others in this one alone.
        part: Of the model: base, adapter or head.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str
    dtype: str = 'float32'
    part: str = 'base'


def specs(blueprint: Blueprint) -> dict[str, ParamSpec]:
    """Every parameter of a model by name, without an array being made."""
    declared = nnx.to_flat_state(nnx.state(skeleton(blueprint, Execution())))
    return {_name(path): _spec(variable) for path, variable in declared}


def count_parameters(blueprint: Blueprint) -> int:
    """Parameters of a model as if nothing were packed, padding of the vocabulary left out."""
    a = blueprint.architecture
    padding = (a.padded_vocab - a.vocab_size) * a.embed
    plain = dataclasses.replace(blueprint, packing=None)
    total = sum(math.prod(spec.shape) for spec in specs(plain).values())
    return total - padding * (1 if a.tied else 2)


def build(
    blueprint: Blueprint,
    params: Mapping[str, jax.Array],
    execution: Execution | None = None,
    **settings: Any,
) -> Decoder:
    """A model from its parameters.

    Args:
        blueprint: What it is made of.
        params: Arrays by checkpoint name.
        execution: How to run it; or its fields as keywords.
        **settings: Fields of `Execution`.
    Returns:
        The model; its arrays are those of `params`.
    Raises:
        ValueError: a parameter is missing, left over, or of another shape or kind of number.
    """
    execution = dataclasses.replace(execution or Execution(), **settings)
    graphdef, state = nnx.split(skeleton(blueprint, execution))
    declared = {_name(path): (path, variable) for path, variable in nnx.to_flat_state(state)}
    if difference := declared.keys() ^ params.keys():
        name = min(difference)
        problem = 'is missing' if name in declared else 'belongs to no layer of this architecture'
        raise ValueError(f"parameter {name} {problem}: the weights are another model's.")
    for name, (_, variable) in declared.items():
        _check(name, params[name], _spec(variable))
    filled = [(path, variable.replace(params[n])) for n, (path, variable) in declared.items()]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def parameters(model: Decoder) -> dict[str, jax.Array]:
    """A model's arrays by checkpoint name."""
    return {_name(path): v.get_value() for path, v in nnx.to_flat_state(nnx.state(model))}


def initialise(
    blueprint: Blueprint,
    key: jax.Array,
    shardings: Mapping[str, Any] | None = None,
    dtype: Any = jnp.float32,
) -> dict[str, jax.Array]:
    """Random parameters, the same on every mesh and in whatever groups the layers are.

    Args:
        blueprint: What is made; weights are normal with the architecture's init_std, norms one,
            biases zero.
        key: A JAX random key.
        shardings: Where each parameter goes, by name; by default to the default device.
        dtype: Of the arrays.
    Returns:
        Arrays by checkpoint name; rows that pad the vocabulary are zero.
    """
    base = dataclasses.replace(blueprint, adapter=None)

    def make(key):
        return _made(base, key, dtype, 'base')

    return jax.jit(make, out_shardings=dict(shardings) if shardings else None)(key)


def initialise_adapter(
    blueprint: Blueprint,
    key: jax.Array,
    base: Mapping[str, jax.Array],
    shardings: Mapping[str, Any] | None = None,
) -> dict[str, jax.Array]:
    """An adapter that changes nothing yet, float32.

    Args:
        blueprint: Of the adapted model; A is uniform, B zero, DoRA's magnitudes are the weights'.
        key: A JAX random key.
        base: The other parameters of the model by checkpoint name.
        shardings: As in `initialise`, of the adapter's parameters.
    Returns:
        Arrays by checkpoint name.
    """
    adapter = blueprint.adapter
    assert adapter is not None

    def make(key, base):
        made = _made(dataclasses.replace(blueprint, packing=None), key, jnp.float32, 'adapter')
        if adapter.dora:
            model = build(blueprint, {**base, **made})
            for number, group in enumerate(model.blocks):
                found = adapters.magnitudes(group)
                made |= {f'blocks.{number}.{name}': value for name, value in found.items()}
        return made

    where = dict(shardings) if shardings else None
    return jax.jit(make, out_shardings=where)(key, dict(base))


def regroup(params: Mapping[str, Any], before: Blueprint, after: Blueprint) -> dict[str, Any]:
    """The same parameters with their layers in other groups.

    Args:
        params: Arrays by checkpoint name, stacked as `before` says.
        before: Their blueprint.
        after: The one wanted.
    Returns:
        Arrays by checkpoint name, stacked as `after` says.
    """
    if before.groups == after.groups:
        return dict(params)
    regrouped = {name: value for name, value in params.items() if not name.startswith('blocks.')}
    for rest in dict.fromkeys(
        name.split('.', 2)[2] for name in params if name.startswith('blocks.')
    ):
        layers = [
            params[f'blocks.{group}.{rest}'][layer : layer + 1]
            for group, count in enumerate(before.groups)
            for layer in range(count)
        ]
        start = 0
        for group, count in enumerate(after.groups):
            taken = layers[start : start + count]
            join = np.concatenate if isinstance(taken[0], np.ndarray) else jnp.concatenate
            regrouped[f'blocks.{group}.{rest}'] = taken[0] if count == 1 else join(taken)
            start += count
    return regrouped


def for_decoding(model: Decoder) -> Decoder:
    """The same model with every layer a group of its own, and the weights of products flat.

    Slices of a stack, and weights that lie otherwise than a product reads them, would be copied for
    every token. To be called under the model's mesh.
    """
    before, after = model.blueprint, model.blueprint.for_decoding()
    if before == after:
        return model
    params = regroup(parameters(model), before, after)
    for name, spec in specs(after).items():
        params[name] = sharding.constrain(params[name].reshape(spec.shape), spec.axes)
    return build(after, params, model.execution)


def skeleton(blueprint: Blueprint, execution: Execution) -> Decoder:
    """The model with declarations in place of arrays."""
    decoder = pkgutil.resolve_name(families.of(blueprint.architecture).decoder)
    return decoder(blueprint, execution)


def _spec(variable: Any) -> ParamSpec:
    declared, said = variable.get_value(), variable.get_metadata()
    return ParamSpec(declared.shape, said['axes'], said['init'], declared.dtype.name, said['part'])


def _check(name: str, array: Any, spec: ParamSpec) -> None:
    if tuple(array.shape) != spec.shape:
        raise ValueError(
            f'parameter {name} has shape {tuple(array.shape)} where the architecture has '
            f"{spec.shape}: the weights are another model's."
        )
    floats = jnp.issubdtype(np.dtype(spec.dtype), jnp.floating)
    fits = jnp.issubdtype(array.dtype, jnp.floating) if floats else array.dtype == spec.dtype
    if not fits:
        raise ValueError(
            f'parameter {name} holds {array.dtype} numbers where the model has '
            f'{"floating-point ones" if floats else spec.dtype}: as weights they mean something '
            'else. Give weights of that kind.'
        )


def _made(blueprint: Blueprint, key: jax.Array, dtype: Any, part: str) -> dict[str, jax.Array]:
    """Random parameters of one part of a model, whatever groups its layers are in."""
    whole = dataclasses.replace(blueprint, groups=())
    made = {
        name: _initial(blueprint.architecture, name, spec, key, dtype)
        for name, spec in specs(whole).items()
        if spec.part == part
    }
    return regroup(made, whole, blueprint)


def _initial(architecture, name, spec, key, dtype):
    if spec.init == 'ones':
        return jnp.ones(spec.shape, dtype)
    if spec.init == 'zeros':
        return jnp.zeros(spec.shape, dtype)
    # The key comes from the name, not from an order: a new parameter changes no other's values.
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    if spec.init == 'uniform':  # a stack [layers, inputs…, outputs]
        bound = math.prod(spec.shape[1:-1]) ** -0.5
        return jax.random.uniform(key, spec.shape, dtype, -bound, bound)
    value = architecture.init_std * jax.random.normal(key, spec.shape, jnp.float32)
    if spec.axes[0] == 'vocab':
        real = jnp.arange(spec.shape[0]) < architecture.vocab_size
        value = jnp.where(real[:, None], value, 0.0)
    return value.astype(dtype)


def _name(path) -> str:
    return '.'.join(map(str, path))
