"""One optimiser step, and one step of evaluation, as pure functions compiled once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from belle_jax import models, sharding
from belle_jax.config import Architecture
from belle_jax.models import Execution
from belle_jax.training.objectives import Objective
from belle_jax.training.optim import global_norm

Params = dict[str, jax.Array]


class State(NamedTuple):
    """What a run trains: parameters by name and the optimiser's state."""

    params: dict[str, Any]
    optimiser: Any


def make_step(
    architecture: Architecture,
    execution: Execution,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    seed: int,
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """The function that a run compiles.

    Args:
        architecture: Of the model.
        execution: How the model is run.
        objective: What is minimised.
        optimiser: The update rule.
        seed: Of dropout.
    Returns:
        step(trainable, frozen, optimiser_state, batch, number) -> ((trainable, state), metrics).
        Arrays of the batch are [A, B, T]: A micro-batches, each of B rows. Gradients are summed
        over them and divided by the trained tokens of all, so that A changes nothing. Metrics are
        scalars: loss, grad_norm, trained_tokens, tokens.
    """
    keys_needed = execution.hidden_dropout > 0 or execution.attention_dropout > 0

    def loss(trainable, frozen, batch, key):
        model = models.build(architecture, {**trainable, **frozen}, execution)
        total, weight, metrics = objective(model, batch, key)
        return total, {**metrics, 'weight': weight}

    gradient = jax.value_and_grad(loss, has_aux=True)

    def of_micro_batch(trainable, frozen, batch, key, number):
        micro_key = jax.random.fold_in(key, number) if keys_needed else None
        (total, sums), grads = gradient(trainable, frozen, batch, micro_key)
        return grads, sums | {'loss': total}

    def of_batch(trainable, frozen, batch, key):
        micro_batches = next(iter(batch.values())).shape[0]
        first = jax.tree.map(lambda a: a[0], batch)
        if micro_batches == 1:
            return of_micro_batch(trainable, frozen, first, key, 0)

        def add(carry, item):
            number, micro_batch = item
            out = of_micro_batch(trainable, frozen, micro_batch, key, number)
            return jax.tree.map(jnp.add, carry, out), None

        shapes = jax.eval_shape(of_micro_batch, trainable, frozen, first, key, 0)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(micro_batches), batch))[0]

    def step(trainable, frozen, optimiser_state, batch, number):
        key = jax.random.fold_in(jax.random.key(seed), number)
        grads, sums = of_batch(trainable, frozen, batch, key)
        weight = sums.pop('weight')
        # A batch without a trained token changes nothing, instead of dividing by zero.
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1.0), grads)
        updates: Any
        updates, optimiser_state = optimiser.update(grads, optimiser_state, trainable)
        metrics = sums | {
            'loss': sums['loss'] / jnp.maximum(weight, 1.0),
            'grad_norm': global_norm(grads),
            'trained_tokens': weight,
        }
        moved: Any = optax.apply_updates(trainable, updates)
        return State(moved, optimiser_state), metrics

    return step


def compile_step(step: Callable[..., Any], shardings: State, mesh: jax.sharding.Mesh) -> Any:
    """`jax.jit` with every layout given, so that the step compiles once, and buffers reused."""
    replicated = sharding.named(mesh, ())
    return jax.jit(
        step,
        in_shardings=(
            shardings.params,
            None,
            shardings.optimiser,
            batch_sharding(mesh),
            replicated,
        ),
        out_shardings=(shardings, replicated),
        donate_argnums=(0, 2),
    )


def make_evaluation(
    architecture: Architecture, execution: Execution, objective: Objective
) -> Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """The function that evaluates one batch [1, B, T]: sums of loss and weight, without dropout."""

    def evaluate(params, batch):
        model = models.build(architecture, params, execution)
        total, weight, _ = objective(model, jax.tree.map(lambda a: a[0], batch), None)
        return {'loss': total, 'weight': weight}

    return evaluate


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Of batch arrays [A, B, T]: each device holds its rows of every micro-batch."""
    return sharding.named(mesh, (None, 'batch', 'length'))
