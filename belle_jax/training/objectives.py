"""What a step minimises: functions from (model, batch, dropout key) to (sum, weight, metrics).

The loss of a step is the total of the sums over the total of the weights, over all micro-batches
and hosts, so that splitting a batch changes nothing. Metrics are sums as well.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from belle_jax.models import Decoder
from belle_jax.models.vocabulary import token_losses

Batch = Mapping[str, jax.Array]
Objective = Callable[
    [Decoder, Batch, jax.Array | None], tuple[jax.Array, jax.Array, dict[str, jax.Array]]
]


def next_token(
    model: Decoder, batch: Batch, dropout_key: jax.Array | None
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Negative log-likelihood of the trained tokens.

    Args:
        model: Any decoder.
        batch: tokens, targets, segment_ids, positions int [B, T] and weights float32 [B, T].
        dropout_key: None turns dropout off.
    Returns:
        The sum in nats, the number of trained tokens, and metrics as sums: the tokens that are
        not padding.
    """
    h_btd = model.hidden(
        batch['tokens'],
        positions=batch['positions'],
        segment_ids=batch['segment_ids'],
        dropout_key=dropout_key,
    )
    losses_bt: jax.Array = token_losses(  # type: ignore[assignment]
        h_btd, model.output.table[...], batch['targets'], model.architecture.vocab_size
    )
    weights_bt = batch['weights']
    tokens = jnp.sum(batch['segment_ids'] > 0)
    return jnp.sum(losses_bt * weights_bt), jnp.sum(weights_bt), {'tokens': tokens}
