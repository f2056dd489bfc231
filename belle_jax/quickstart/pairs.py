"""The quickstart's instruction pairs: made the same on every machine, and split without leaks."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from belle_jax.data.row_file import new_row_file
from belle_jax.quickstart.kinds import KINDS, TaskKind

HELD_OUT = 40  # pairs of each kind


@dataclass(frozen=True)
class Pair:
    """An instruction, its only right answer, and the kind of task it is."""

    kind: str
    instruction: str
    output: str


def make(seed: int = 0, held_out: int = HELD_OUT) -> tuple[list[Pair], list[Pair]]:
    """Makes all pairs.

    Args:
        seed: Other seeds give other pairs of the same kinds.
        held_out: How many pairs of each kind are kept from training.
    Returns:
        (training pairs, held-out pairs), each shuffled. No held-out question is among the training
        pairs in any phrasing, and for kinds with `new_answers` no training pair of any kind has a
        held-out answer.
    """
    train: list[Pair] = []
    test: list[Pair] = []
    for kind in KINDS:
        drawn = _draw(kind, seed)
        train += drawn[:-held_out]
        test += drawn[-held_out:]
    new = {kind.name for kind in KINDS if kind.new_answers}
    unseen = {pair.output for pair in test if pair.kind in new}
    train = [pair for pair in train if pair.output not in unseen]
    rng = random.Random(f'{seed} order')
    rng.shuffle(train)
    rng.shuffle(test)
    return train, test


def _draw(kind: TaskKind, seed: int) -> list[Pair]:
    """Draws `kind.pairs` questions of different content, each in one of its phrasings."""
    rng = random.Random(f'{seed} {kind.name}')
    drawn: dict[tuple, Pair] = {}
    while len(drawn) < kind.pairs:
        values, output = kind.draw(rng)
        drawn[values] = Pair(kind.name, rng.choice(kind.phrasings).format(*values), output)
    return list(drawn.values())


def write(pairs: Iterable[Pair], path: Path) -> None:
    """Writes pairs as JSON lines {kind, instruction, output}, the form that training reads."""
    with new_row_file(path, 'lines', overwrite=True) as add:
        for pair in pairs:
            add(vars(pair))
