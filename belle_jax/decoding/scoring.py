"""How likely a model finds given text."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from belle_jax import models, sharding
from belle_jax.decoding.batch import batch_rows, group_by_length, mesh_of, prompt_length


def score(
    model: models.Decoder, sequences: Sequence[Sequence[int]], *, batch_size: int = 8
) -> list[np.ndarray]:
    """The log-probability of each token after those before it.

    Args:
        model: Any decoder; on a mesh where its parameters are.
        sequences: Token ids, each with at least two (the first is only read).
        batch_size: Sequences at a time.
    Returns:
        For each sequence float32 [len - 1], in nats, in the order of `sequences`.
    Raises:
        ValueError: a sequence has fewer than two tokens.
    """
    for number, sequence in enumerate(sequences):
        if len(sequence) < 2:
            raise ValueError(
                f'sequence {number} has {len(sequence)} tokens: the first is only read, so at '
                'least two are needed.'
            )
    graphdef, params = nnx.split(model)
    results: list[np.ndarray] = [np.empty(0, np.float32)] * len(sequences)
    with mesh_of(models.parameters(model)):
        for indices in group_by_length([len(s) for s in sequences], batch_size):
            rows = batch_rows(len(indices), sharding.shards('batch'))
            length = prompt_length(max(len(sequences[i]) for i in indices) - 1)
            inputs, targets = np.zeros((2, rows, length), np.int32)
            for row, i in enumerate(indices):
                inputs[row, : len(sequences[i]) - 1] = sequences[i][:-1]
                targets[row, : len(sequences[i]) - 1] = sequences[i][1:]
            lengths = np.array([len(sequences[i]) for i in indices] + [1] * (rows - len(indices)))
            scores = np.asarray(_score(graphdef, params, inputs, targets, lengths.astype(np.int32)))
            for row, i in enumerate(indices):
                results[i] = scores[row, : len(sequences[i]) - 1]
    return results


@functools.partial(jax.jit, static_argnames='graphdef')
def _score(graphdef, params, inputs, targets, lengths):
    """float32 [B, T]; what stands behind a row's end is never read."""
    model = nnx.merge(graphdef, params)
    h_btd = model.hidden(inputs, rope_lengths=lengths)
    return -model.token_losses(h_btd, targets)
