"""How far a quantised model is from the model that it was made of, on windows of text."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

ROWS = 8  # windows at a time


class Yardstick:
    """A float model, and the windows that all that is made of it is measured on.

    Two figures: the gap, by which the loss grows, is what perplexity tells; a change of weights
    that happens to help on this text makes it smaller. The divergence of the next token's
    distribution from the float model's tells any change, and is known far more closely.
    """

    def __init__(self, exact: Any, held: np.ndarray, parts: Mapping[str, slice]):
        """
        Args:
            exact: The float model.
            held: Windows, int32 [M, T].
            parts: Which of them have a perplexity of their own, by name.
        """
        self._held, self._parts = held, parts
        self._exact = nnx.split(exact)
        self._hidden = [np.asarray(_hidden(*self._exact, rows)) for rows in self._rows()]

    def measure(self, model: Any) -> dict[str, float]:
        """Perplexities, and the differences with their standard errors, nats a token."""
        made = nnx.split(model)
        figures = [
            _compared(self._exact[0], made[0], self._exact[1], made[1], hidden, rows)
            for hidden, rows in zip(self._hidden, self._rows(), strict=True)
        ]
        before, after, divergence = np.concatenate(figures, axis=1).astype(np.float64)
        change = after - before
        perplexities = {
            f'{name}{when}': np.exp(losses[part].mean())
            for name, part in self._parts.items()
            for when, losses in (('_before', before), ('', after))
        }
        return perplexities | {
            'gap': change.mean(),
            'gap_standard_error': change.std(ddof=1) / np.sqrt(len(change)),
            'divergence': divergence.mean(),
            'divergence_standard_error': divergence.std(ddof=1) / np.sqrt(len(divergence)),
        }

    def _rows(self) -> list[np.ndarray]:
        return [self._held[i : i + ROWS] for i in range(0, len(self._held), ROWS)]


@functools.partial(jax.jit, static_argnums=0)
def _hidden(graphdef: Any, params: Any, tokens: jax.Array) -> jax.Array:
    return nnx.merge(graphdef, params).hidden(tokens)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compared(exact_def, made_def, exact, made, hidden_btd, tokens_bt) -> jax.Array:
    """Of each window: the loss before, the loss now, and the divergence, float32 [3, B]."""
    was, now = nnx.merge(exact_def, exact), nnx.merge(made_def, made)
    size = was.architecture.vocab_size
    hidden = ((was, hidden_btd), (now, now.hidden(tokens_bt)))
    p_btv, q_btv = (jax.nn.log_softmax(model.logits(h[:, :-1])[..., :size]) for model, h in hidden)
    before, after = (
        -jnp.take_along_axis(logs, tokens_bt[:, 1:, None], -1)[..., 0] for logs in (p_btv, q_btv)
    )
    divergence = jnp.sum(jnp.exp(p_btv) * (p_btv - q_btv), axis=-1)
    return jnp.stack([part.mean(axis=1) for part in (before, after, divergence)])
