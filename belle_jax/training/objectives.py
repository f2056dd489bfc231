"""What a step minimises.

The loss of a step is the total of an objective's sums over the total of its weights, over all
micro-batches and hosts, so that splitting a batch changes nothing.
"""

from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp

from belle_jax.declaration import unknown
from belle_jax.models import Decoder

Batch = Mapping[str, jax.Array]
Sums = tuple[jax.Array, jax.Array, dict[str, jax.Array]]


class Objective(Protocol):
    """What is minimised; `--config.train.objective` chooses one by its name.

    Attributes:
        name: In the configuration.
        fields: dtype of each batch array that it reads, all [B, T]; `segment_ids` is among them,
            0 where there is padding.
        reductions: How each metric that it reports is recorded, in training and in evaluation:
            'mean' divides the sum by the sum of the weights, 'sum' leaves it.
    """

    name: str
    fields: Mapping[str, str]
    reductions: Mapping[str, str]

    def __call__(self, model: Decoder, batch: Batch, dropout_key: jax.Array | None) -> Sums:
        """Evaluates one micro-batch.

        Args:
            model: Any decoder.
            batch: The arrays of `fields`.
            dropout_key: None turns dropout off.
        Returns:
            The sum of what is minimised, the sum of the weights, and each metric as a sum.
        """
        ...


class NextToken:
    """Negative log-likelihood of the trained tokens, in nats; the weight is their number."""

    name = 'next_token'
    fields: Mapping[str, str] = {
        **dict.fromkeys(('tokens', 'targets', 'segment_ids', 'positions'), 'int32'),
        'weights': 'float32',
    }
    reductions: Mapping[str, str] = {}

    def __call__(self, model: Decoder, batch: Batch, dropout_key: jax.Array | None) -> Sums:
        """See Objective."""
        h_btd = model.hidden(
            batch['tokens'],
            positions=batch['positions'],
            segment_ids=batch['segment_ids'],
            dropout_key=dropout_key,
        )
        losses_bt = model.token_losses(h_btd, batch['targets'])
        return jnp.sum(losses_bt * batch['weights']), jnp.sum(batch['weights']), {}


OBJECTIVES: dict[str, Objective] = {o.name: o for o in (NextToken(),)}


def named(name: str) -> Objective:
    """The objective of that name; if there is none, a ValueError."""
    if name not in OBJECTIVES:
        raise unknown('--config.train.objective', name, OBJECTIVES)
    return OBJECTIVES[name]
