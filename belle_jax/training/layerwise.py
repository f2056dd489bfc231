"""Updates that go through a stack layer by layer, so that what they need is of one layer's size.

Where the state lies in the host's memory or in 8 bits, an update of a whole stack at once would
bring all of it to the device, or to float32.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from belle_jax.models import ParamSpec

Params = Mapping[str, jax.Array]


def layers_of(specs: Mapping[str, ParamSpec]) -> dict[str, int]:
    """How many layers each parameter is a stack of, by name; 0: it is none."""
    return {n: spec.shape[0] if spec.axes[0] == 'layers' else 0 for n, spec in specs.items()}


def groups(layers: Mapping[str, int]) -> dict[int, list[str]]:
    """Names by the number of layers."""
    found: dict[int, list[str]] = {}
    for name, count in layers.items():
        found.setdefault(count, []).append(name)
    return found


def state_axes(init: Callable[[Any], Any], stacks: Any) -> Any:
    """Which axis of a rule's state is that of the layers: the first, or None for counters.

    Those are the same for all layers and kept once: what hangs on them is not drawn into both
    branches of a condition.
    """
    one = jax.tree.map(lambda a: a[0], stacks)
    return jax.tree.map(lambda s: 0 if s.ndim else None, jax.eval_shape(init, one))


@dataclasses.dataclass(frozen=True)
class LayerByLayer:
    """A rule that sees one layer at a time, and at last what is in no stack.

    A loop brings masters and state of a layer to the device while those of the one before go back,
    and writes parameters where they are. It begins when the gradient is whole, because that is
    clipped by its norm.

    Attributes:
        rules: What is done to one layer, by the number of layers; that of 0 is of no stack.
        layers: Of each parameter, by name.
        clip_norm: The longest gradient, over all parameters; 0: any.
        first: What is done to gradients before, without a state.
        masters: Whether the state has a float32 master of each parameter, of which it is a copy.
    """

    rules: Mapping[int, optax.GradientTransformation]
    layers: Mapping[str, int]
    clip_norm: float
    first: optax.GradientTransformation
    masters: bool

    def init(self, params: Params) -> Any:
        """The state: masters by name, and the rule's state for each number of layers."""
        wide = {name: p.astype(jnp.float32) for name, p in params.items()}
        made = {}
        for layers, names in groups(self.layers).items():
            init, group = self.rules[layers].init, {name: wide[name] for name in names}
            run = jax.vmap(init, out_axes=state_axes(init, group)) if layers else init
            made[str(layers)] = run(group)
        return {'masters': wide if self.masters else {}, 'rule': made}

    def move(
        self, sums: Params, weight: jax.Array, state: Any, params: Params
    ) -> tuple[dict[str, jax.Array], Any, jax.Array]:
        """As `optim.moved`. Sums are divided in the loop: whole stacks would be, in float32."""
        first: Any = self.first.update(dict(sums), optax.EmptyState())
        norm, whole = (
            optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), tree)) / weight
            for tree in (first[0], sums)
        )
        factor = 1 / weight
        if self.clip_norm:
            factor *= jnp.where(norm < self.clip_norm, 1, self.clip_norm / norm)
        moved, masters, rules = {}, {}, {}
        for layers, names in groups(self.layers).items():
            update = functools.partial(_at_once, self.rules[layers], factor)
            if layers:
                update = functools.partial(_in_turn, update, layers)
            own, held, group = (
                {name: tree[name] for name in names if name in tree}
                for tree in (params, state['masters'], first[0])
            )
            found = update((own, held, state['rule'][str(layers)]), group)
            moved |= found[0]
            masters |= found[1]
            rules[str(layers)] = found[2]
        return moved, {'masters': masters, 'rule': rules}, whole


def _at_once(rule: optax.GradientTransformation, factor: jax.Array, given: Any, grads: Any) -> Any:
    """Parameters, masters and the rule's state, on the device, after an update."""
    params, *held = given
    masters, state = jax.device_put(held, jax.memory.Space.Device)
    wide = jax.tree.map(lambda g: g.astype(jnp.float32) * factor, grads)
    updates, state = rule.update(wide, state, masters or params)
    new: Any = optax.apply_updates(masters or params, updates)
    moved = {name: new[name].astype(params[name].dtype) for name in new}
    return moved, new if masters else {}, state


def _in_turn(update: Callable[..., Any], layers: int, given: Any, grads: Any) -> Any:
    """The same of each layer of stacks, which stay where they are."""

    def layer(number: jax.Array, stacks: Any) -> Any:
        def put(stack: jax.Array, new: jax.Array) -> jax.Array:
            if not stack.ndim:
                return new
            new = jax.device_put(new, jax.typeof(stack).memory_space)
            return jax.lax.dynamic_update_index_in_dim(stack, new, number, 0)

        def one(stack: jax.Array, first: jax.Array) -> jax.Array:
            # Each layer counts from what all of them began with.
            return jax.lax.dynamic_index_in_dim(stack, number, 0, False) if stack.ndim else first

        made = update(jax.tree.map(one, stacks, given), jax.tree.map(one, grads, grads))
        return jax.tree.map(put, stacks, made)

    return jax.lax.fori_loop(0, layers, layer, given)
