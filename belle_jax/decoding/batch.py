"""Rows that are answered together: from prompts of many lengths to a few shapes of arrays."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from belle_jax import sharding
from belle_jax.decoding import cache as shapes
from belle_jax.decoding import loop, sampling
from belle_jax.decoding.sampling import Settings


class Batch:
    """Rows that are answered together: the device's side."""

    def __init__(self, engine: Any, answers: Sequence[Any], rows: Sequence[int]):
        """Lays the arrays out; a batch is filled up with rows that are done from the start.

        Args:
            engine: The Engine.
            answers: Its Answers.
            rows: Numbers that with the seed decide the draws.
        """
        self.engine, self.answers = engine, answers
        self._count = len(answers)
        with engine.on_mesh():
            size = shapes.batch_rows(len(answers), sharding.batch_shards())
        settings = [a.settings for a in answers] + [Settings()] * (size - len(answers))
        self.lengths = np.ones(size, np.int32)
        self.lengths[: self._count] = [len(a.prompt) for a in answers]
        most = np.ones(size, np.int32)
        most[: self._count] = [a.most for a in answers]
        self.tokens = np.zeros((size, shapes.prompt_length(int(self.lengths.max()))), np.int32)
        for row, answer in enumerate(answers):
            self.tokens[row, : len(answer.prompt)] = answer.prompt
        self.live = np.arange(size) < self._count
        self.total = shapes.total_length(self.tokens.shape[1], int((self.lengths + most).max()))
        numbers = [*rows, *[0] * (size - self._count)]
        filters = sampling.filters(settings, numbers)
        self.rows = loop.Rows(filters, most, self.lengths + most)
        plan = sampling.plan(settings, engine.architecture.padded_vocab)
        self.program = loop.Program(engine.graphdef, plan, engine.eos_ids)

    def first(self) -> list[list[int]]:
        """Reads the prompts and makes each answer's first token."""
        with self.engine.on_mesh():
            self._state = loop.prefill(
                self.program,
                self.engine.params,
                self.tokens,
                self.lengths,
                self.live,
                self.rows,
                self.total,
            )
        return [[int(t)] for t in np.asarray(self._state.token)[: self._count]]

    def advance(self, stopped: Sequence[bool], steps: int) -> list[list[int]]:
        """Makes up to `steps` tokens more in rows that go on."""
        ended = np.ones(len(self.live), bool)
        ended[: self._count] = stopped
        with self.engine.on_mesh():
            self._state, out = loop.advance(
                self.program, self.engine.params, self._state, self.rows, ended, steps
            )
        return [[int(t) for t in row if t >= 0] for row in np.asarray(out)[: self._count]]


def mesh_of(params: Mapping[str, jax.Array]) -> contextlib.AbstractContextManager[Any]:
    """A context in which the mesh that parameters live on is set; nothing on a single device."""
    for value in params.values():
        held = value.sharding
        if isinstance(held, NamedSharding) and held.mesh.size > 1:
            return jax.set_mesh(held.mesh)  # type: ignore[arg-type]
    return contextlib.nullcontext()
