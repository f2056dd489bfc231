"""One optimiser step, and one step of evaluation, as pure functions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from belle_jax import models
from belle_jax.models import Blueprint, Execution
from belle_jax.training import optim
from belle_jax.training.layerwise import LayerByLayer
from belle_jax.training.objectives import Objective

Params = dict[str, Any]


class State(NamedTuple):
    """What a run has come to."""

    trainable: Params  # what the optimiser moves, by name
    frozen: Params  # all others, which stay as they came
    optimiser: Any  # its state, over the trainable ones alone


def make_step(
    blueprint: Blueprint,
    execution: Execution,
    objective: Objective,
    optimiser: optax.GradientTransformation | LayerByLayer,
    seed: int,
) -> Callable[..., tuple[tuple[Params, Any], dict[str, jax.Array]]]:
    """The function that a run compiles; `seed` is dropout's.

    Returns:
        step(trainable, frozen, optimiser_state, batch, number) -> ((trainable, state), metrics).
        Arrays of the batch are [A, B, T]: A micro-batches, each of B rows. Gradients are summed
        over them and divided by the trained tokens of all, so that A changes nothing. Metrics are
        scalars: loss, grad_norm, trained_tokens, tokens, and what the objective reports.
    """
    rates = execution.hidden_dropout, execution.attention_dropout, execution.adapter_dropout
    keys_needed = max(rates) > 0

    def loss(trainable, frozen, batch, key):
        model = models.build(blueprint, {**trainable, **frozen}, execution)
        sums = _sums(objective, model, batch, key)
        return sums['loss'], sums

    gradient = jax.grad(loss, has_aux=True)

    def of_micro_batch(trainable, frozen, batch, key, number):
        micro_key = jax.random.fold_in(key, number) if keys_needed else None
        return gradient(trainable, frozen, batch, micro_key)

    def step(trainable, frozen, optimiser_state, batch, number):
        key = jax.random.fold_in(jax.random.key(seed), number)
        grads, sums = _over_micro_batches(of_micro_batch, trainable, frozen, batch, key)
        # A batch without a trained token changes nothing, instead of dividing by zero.
        weight = jnp.maximum(sums['weight'], 1.0)
        moved, optimiser_state, norm = optim.moved(
            optimiser, grads, weight, optimiser_state, trainable
        )
        metrics = reduced(objective, sums) | {
            'grad_norm': norm,
            'trained_tokens': sums['weight'],
            'tokens': sums['tokens'],
        }
        return (moved, optimiser_state), metrics

    return step


def _over_micro_batches(function, trainable, frozen, batch, key):
    """The sums of what a function gives for each micro-batch of a batch [A, B, T]."""
    micro_batches = next(iter(batch.values())).shape[0]
    first = jax.tree.map(lambda a: a[0], batch)
    if micro_batches == 1:
        return function(trainable, frozen, first, key, 0)

    def add(carry, item):
        number, micro_batch = item
        out = function(trainable, frozen, micro_batch, key, number)
        return jax.tree.map(jnp.add, carry, out), None

    shapes = jax.eval_shape(function, trainable, frozen, first, key, 0)
    # In bfloat16 the terms of later micro-batches would vanish.
    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, 'float32')), shapes
    )
    return jax.lax.scan(add, zeros, (jnp.arange(micro_batches), batch))[0]


def make_evaluation(
    blueprint: Blueprint, execution: Execution, objective: Objective
) -> Callable[[Params, Params, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """The function that evaluates one batch [1, B, T], without dropout: sums for `reduced`."""

    def evaluate(trainable, frozen, batch):
        model = models.build(blueprint, {**trainable, **frozen}, execution)
        return _sums(objective, model, jax.tree.map(lambda a: a[0], batch), None)

    return evaluate


def reduced(objective: Objective, sums: Mapping[str, Any]) -> dict[str, Any]:
    """The loss and what the objective reports, each reduced as the objective says.

    Args:
        objective: Whose sums they are.
        sums: Over any number of batches: loss, weight, tokens, and the objective's metrics.
    Returns:
        loss in nats a token, and the metrics.
    """
    weight = jnp.maximum(sums['weight'], 1.0)
    means = {'loss'} | {name for name, how in objective.reductions.items() if how == 'mean'}
    kept = ('loss', *objective.reductions)
    return {name: sums[name] / weight if name in means else sums[name] for name in kept}


def _sums(objective: Objective, model: models.Decoder, batch, key) -> dict[str, jax.Array]:
    total, weight, metrics = objective(model, batch, key)
    if metrics.keys() != objective.reductions.keys():
        raise ValueError(
            f'the objective {objective.name} reports {sorted(metrics)} and says how to reduce '
            f'{sorted(objective.reductions)}: name each metric in `reductions`.'
        )
    tokens = jnp.sum(batch['segment_ids'] > 0)
    return {'loss': total, 'weight': weight, 'tokens': tokens, **metrics}
