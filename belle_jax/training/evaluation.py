"""The loss over what is held out, of all sources and of each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from belle_jax import data
from belle_jax.data.prepare import HeldOut
from belle_jax.training.setup import Setup
from belle_jax.training.step import State, reduced


def evaluate(setup: Setup, state: State, sources: Sequence[HeldOut]) -> dict[str, float]:
    """The objective over the rows that are held out; under `jax.set_mesh(setup.mesh)`.

    Args:
        setup: Of the run.
        state: What is evaluated.
        sources: At least one.
    Returns:
        loss (nats a token that counts), perplexity, bits_per_character and the objective's metrics,
        over all rows; and where there are several sources the same of each, as `loss/NAME`.
    """
    sums = [_sums(setup, state, source) for source in sources]
    characters = [source.characters for source in sources]
    found = _figures(setup, jax.tree.map(lambda *s: sum(s), *sums), sum(characters))
    if len(sources) > 1:
        for source, its_sums, its_characters in zip(sources, sums, characters):
            figures = _figures(setup, its_sums, its_characters)
            found |= {f'{name}/{source.name}': value for name, value in figures.items()}
    return found


def _sums(setup: Setup, state: State, source: HeldOut) -> Mapping[str, jax.Array]:
    placement, totals = setup.placement(micro_batches=1), None
    rows = data.load(source.plan, placement.rows)
    for values in placement.stream(rows):
        sums = setup.evaluate(state, values)
        totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    assert totals is not None, 'a source without rows is not held out'
    return totals


def _figures(setup: Setup, sums: Mapping[str, Any], characters: int) -> dict[str, float]:
    found = {name: float(value) for name, value in reduced(setup.objective, sums).items()}
    found['perplexity'] = perplexity(found['loss'])
    if characters:
        found['bits_per_character'] = float(sums['loss']) / math.log(2) / characters
    return found


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
