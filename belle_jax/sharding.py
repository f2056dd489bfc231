"""Where arrays live: the mesh, the one table from logical axes to mesh axes, and shard_map by them.

Only this file names a mesh axis. Everything else speaks of logical axes: what a dimension means.
Outside a mesh (`jax.set_mesh`) every function here is the identity, so that models run on one
device without any set-up.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from belle_jax import config

MESH_AXES = ('data', 'fsdp', 'tensor')

RULES: dict[str | None, str | tuple[str, ...] | None] = {
    # parameters
    'vocab': 'tensor',
    'embed': 'fsdp',
    'q_heads': 'tensor',
    'kv_heads': 'tensor',
    'mlp': 'tensor',
    'head_dim': None,
    'qkv': None,
    'layers': None,
    # activations
    'batch': ('data', 'fsdp'),
    'length': None,
    'features': None,
    'heads': 'tensor',
    'hidden': 'tensor',
    # communication alone: devices that hold the same parameters but other rows
    'replicas': 'data',
    # what any device may work on alone: columns of matrices that are quantised
    'split': MESH_AXES,
    None: None,
}

Axes = Sequence[str | None]


def make_mesh(shape: config.Mesh, devices: Sequence[Any] | None = None) -> jax.sharding.Mesh:
    """The mesh of a run.

    Slices that slow links join get the outer factors, so that an axis of 2 slices × 8 devices has
    16 entries, of which the first 8 lie in the first slice.

    Args:
        shape: Devices along each axis of a slice, -1 at most once for the remaining ones; and how
            many slices lie along it.
        devices: All of jax.devices() by default.
    Raises:
        ValueError: the axes do not multiply to the number of devices, or of slices.
    """
    given = list(jax.devices() if devices is None else devices)
    outer = (shape.dcn_data, shape.dcn_fsdp, 1)
    count, whose = len(given), f'{len(given)} device{"s" if len(given) > 1 else ""}'
    if math.prod(outer) > 1:
        count = _devices_of_a_slice(shape, given)
        whose = f'the {count} of each slice'
    sizes = [shape.data, shape.fsdp, shape.tensor]
    flags = ' '.join(f'--config.mesh.{n}={s}' for n, s in zip(MESH_AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise ValueError(f'{flags}: each axis is at least 1, or -1 on one axis alone for the rest.')
    rest, left_over = divmod(count, math.prod(s for s in sizes if s != -1))
    if left_over or (-1 not in sizes and rest != 1) or rest == 0:
        raise ValueError(
            f'{flags} does not fit {whose}: the product of the '
            f'axes must be {count}. Set one of them to -1 to take what remains.'
        )
    sizes = [rest if s == -1 else s for s in sizes]
    auto = (AxisType.Auto,) * len(sizes)
    slices = slices_of(given)
    if math.prod(outer) > 1:
        laid_out = mesh_utils.create_hybrid_device_mesh(
            sizes,
            outer,
            given,
            process_is_granule=[d.process_index for d in given] == slices,
            allow_split_physical_axes=True,
        )
        return jax.sharding.Mesh(laid_out, MESH_AXES, axis_types=auto)
    if devices is not None or len({*slices}) > 1:  # which jax.make_mesh refuses
        return jax.sharding.Mesh(np.asarray(given).reshape(sizes), MESH_AXES, axis_types=auto)
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=auto)


def slices_of(devices: Sequence[Any]) -> list[int]:
    """In which slice each device is, within which links are fast.

    That is what devices say. Where they know of one slice alone and are no TPUs, whose hosts have
    fast links between them, a process's devices are one: those of a machine.
    """
    told = [getattr(d, 'slice_index', 0) for d in devices]
    if len({*told}) > 1 or devices[0].platform == 'tpu':
        return told
    return [d.process_index for d in devices]


def _devices_of_a_slice(shape: config.Mesh, devices: Sequence[Any]) -> int:
    """How many each slice has, where they fit the outer factors."""
    found = collections.Counter(slices_of(devices))
    flags = f'--config.mesh.dcn_data={shape.dcn_data} --config.mesh.dcn_fsdp={shape.dcn_fsdp}'
    if len(found) != shape.dcn_data * shape.dcn_fsdp:
        raise ValueError(
            f'{flags} does not fit {len(found)} slice{"s" if len(found) > 1 else ""}: their '
            'product is the number of TPU slices or, elsewhere, of machines. Set '
            f'--config.mesh.dcn_data={len(found)} --config.mesh.dcn_fsdp=1.'
        )
    if len({*found.values()}) > 1:
        raise ValueError(
            f'{flags}: the slices have {", ".join(map(str, found.values()))} devices, and the mesh '
            'is the same in each. Take slices of one size.'
        )
    return found.popitem()[1]


def check_divides(architecture: config.Architecture, mesh: jax.sharding.Mesh) -> None:
    """Refuses a mesh axis that splits a dimension unevenly, before any device is touched."""
    for dimension, axis in (
        ('embed', 'embed'),
        ('q_heads', 'q_heads'),
        ('kv_heads', 'kv_heads'),
        ('mlp', 'mlp'),
        ('padded_vocab', 'vocab'),
    ):
        size, name = getattr(architecture, dimension), RULES[axis]
        shards = mesh.shape[name]
        if size % shards:
            raise ValueError(
                f'--config.mesh.{name}={shards} does not divide {dimension}={size} of the model: '
                f'each shard holds a whole number of them. Set --config.mesh.{name}'
                f'{", times dcn_fsdp," if name == "fsdp" else ""} to a divisor of {size}.'
            )


def check_batch(rows: int, mesh: jax.sharding.Mesh) -> None:
    """Validates that a micro-batch of `rows` rows splits evenly over the mesh."""
    shards = math.prod(mesh.shape[a] for a in RULES['batch'] or ())
    if rows % shards:
        raise ValueError(
            f'--config.batch.size over batch.accumulation is {rows} rows, which mesh.data × '
            f'mesh.fsdp = {shards} does not divide: each device takes the same number of rows. Set '
            f'--config.batch.size to a multiple of {shards} × batch.accumulation.'
        )


def spec(axes: Axes) -> PartitionSpec:
    """The partition of an array whose dimensions mean `axes`."""
    return PartitionSpec(*(RULES[a] for a in axes))


def named(mesh: jax.sharding.Mesh, axes: Axes) -> NamedSharding:
    """A sharding on `mesh` of an array whose dimensions mean `axes`."""
    return NamedSharding(mesh, spec(axes))


def whole_where(given: NamedSharding, shape: Sequence[int], other: Sequence[int]) -> NamedSharding:
    """The sharding of an array for one like it, whole along each axis that has another size."""
    axes = [*given.spec, *[None] * (len(shape) - len(given.spec))]
    kept = [a if n == m else None for a, n, m in zip(axes, shape, other, strict=True)]
    return NamedSharding(given.mesh, PartitionSpec(*kept))


def of_parameters(mesh: jax.sharding.Mesh, specs: Mapping[str, Any]) -> dict[str, NamedSharding]:
    """Shardings of parameters by name, from their declarations' `axes`.

    Raises:
        ValueError: a dimension does not split evenly, such as that of a few words of codes.
    """
    for name, s in specs.items():
        for size, axis in zip(s.shape, s.axes, strict=True):
            mesh_axis = RULES[axis]
            if isinstance(mesh_axis, str) and size % mesh.shape[mesh_axis]:
                raise ValueError(
                    f'{name} has {size} entries along {axis}, which mesh.{mesh_axis}='
                    f'{mesh.shape[mesh_axis]} does not divide: each device holds as many. Take '
                    f'fewer devices for {mesh_axis}.'
                )
    return {name: named(mesh, s.axes) for name, s in specs.items()}


def constrain(x: jax.Array, axes: Axes) -> jax.Array:
    """Asks the compiler to lay an activation out by `axes`; the identity outside a mesh."""
    return jax.lax.with_sharding_constraint(x, spec(axes)) if active() else x


def active() -> bool:
    """Whether a mesh is set."""
    return not jax.sharding.get_abstract_mesh().empty


def shards(axis: str) -> int:
    """Into how many parts a logical axis is split on the mesh that is set."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[name] for name in _names(axis)) if not mesh.empty else 1


def shard_map(
    function: Callable[..., Any], in_axes: Sequence[Axes], out_axes: Axes | tuple[Axes, ...]
) -> Callable[..., Any]:
    """`function` on each device's shards, with the layout given by logical axes.

    Outside a mesh it is `function` itself. What comes out is not checked for replication: a
    function that sums over an axis says so with `psum`.
    """
    if not active():
        return function
    several = bool(out_axes) and not isinstance(out_axes[0], str | None)
    given: Any = out_axes
    outs = tuple(spec(a) for a in given) if several else spec(given)
    return jax.shard_map(
        function, in_specs=tuple(spec(a) for a in in_axes), out_specs=outs, check_vma=False
    )


# Collectives by logical axis, for use inside `shard_map`.


def psum(x: jax.Array, axis: str) -> jax.Array:
    """The sum over the shards of a logical axis."""
    return jax.lax.psum(x, _names(axis)) if shards(axis) > 1 else x


def pmax(x: jax.Array, axis: str) -> jax.Array:
    """The maximum over the shards of a logical axis."""
    return jax.lax.pmax(x, _names(axis)) if shards(axis) > 1 else x


def index(axis: str) -> jax.Array | int:
    """Which shard of a logical axis this device holds."""
    return jax.lax.axis_index(_names(axis)) if shards(axis) > 1 else 0


def gather(x: jax.Array, axis: str, dimension: int) -> jax.Array:
    """All shards of a logical axis, joined along a dimension."""
    if shards(axis) == 1:
        return x
    return jax.lax.all_gather(x, _names(axis), axis=dimension, tiled=True)


def scatter_sum(x: jax.Array, axis: str, dimension: int) -> jax.Array:
    """The sum over the shards of an axis, of which each device keeps its part along a dimension."""
    if shards(axis) == 1:
        return x
    return jax.lax.psum_scatter(x, _names(axis), scatter_dimension=dimension, tiled=True)


def exchange(x: jax.Array, axis: str, split: int, join: int) -> jax.Array:
    """Splits dimension `split` over the shards of an axis and joins what arrives along `join`."""
    if shards(axis) == 1:
        return x
    return jax.lax.all_to_all(x, _names(axis), split_axis=split, concat_axis=join, tiled=True)


def on_host(arrays: Any) -> Any:
    """Arrays as NumPy's, whole in each of the processes whose devices share them."""
    return jax.tree.map(
        lambda a: (
            multihost_utils.process_allgather(a, tiled=True)
            if isinstance(a, jax.Array) and not a.is_fully_addressable
            else np.asarray(a)
        ),
        arrays,
    )


def _names(axis: str) -> tuple[str, ...]:
    names = RULES[axis]
    return (names,) if isinstance(names, str) else names or ()
