"""Rows that are answered together: from prompts of many lengths to a few shapes of arrays.

Few shapes, so that few compiled programs serve every prompt. Prompts are padded on the right.
Padding writes keys and values behind a row's text; but a query reads only up to its own position,
and by then the row's own tokens have overwritten them. So no mask is needed, and a row's length
alone says what its cache holds.
"""

import collections
import contextlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from belle_jax import sharding
from belle_jax.decoding import loop, sampling
from belle_jax.decoding.sampling import Sampling

WORTH_COMPILING, PADDING = 16, 1.5
"""Fewer batches of a shape are padded to another that costs up to so many times as much."""


class AnswerBatch:
    """Rows that are answered together: the device's side."""

    def __init__(self, engine: Any, answers: Sequence[Any], rows: Sequence[int]):
        """Lays out the arrays of an Engine's answers; rows that fill the batch up start done.

        `rows` are the numbers that with the seed decide the draws.
        """
        self.engine, self.answers = engine, answers
        self._count = len(answers)
        with engine.on_mesh():
            size = batch_rows(len(answers), sharding.shards('batch'))
        settings = [a.settings for a in answers] + [Sampling()] * (size - len(answers))
        self.lengths = np.ones(size, np.int32)
        self.lengths[: self._count] = [len(a.prompt) for a in answers]
        most = np.ones(size, np.int32)
        most[: self._count] = [a.most for a in answers]
        self.tokens = np.zeros((size, prompt_length(int(self.lengths.max()))), np.int32)
        for row, answer in enumerate(answers):
            self.tokens[row, : len(answer.prompt)] = answer.prompt
        self.live = np.arange(size) < self._count
        self.total = total_length(self.tokens.shape[1], int((self.lengths + most).max()))
        numbers = [*rows, *[0] * (size - self._count)]
        filters = sampling.filters(settings, numbers)
        self.rows = loop.RowSettings(filters, most, self.lengths + most)
        plan = sampling.plan_filters(settings, engine.architecture.padded_vocab)
        self.program = loop.Program(engine.graphdef, plan, engine.eos_ids)

    @property
    def prompts(self) -> tuple[Any, ...]:
        """What compiled programs read the prompts with; see `loop.prefill`."""
        arrays = self.tokens, self.lengths, self.live
        return self.program, self.engine.params, *arrays, self.rows, self.total

    def first(self) -> list[list[int]]:
        """Reads the prompts and makes each answer's first token."""
        with self.engine.on_mesh():
            self._state = loop.prefill(*self.prompts)
        return [[int(t)] for t in sharding.on_host(self._state.token)[: self._count]]

    def advance(self, stopped: Sequence[bool], steps: int) -> list[list[int]]:
        """Makes up to `steps` tokens more in rows that go on."""
        ended = np.ones(len(self.live), bool)
        ended[: self._count] = stopped
        with self.engine.on_mesh():
            self._state, out = loop.advance(
                self.program, self.engine.params, self._state, self.rows, ended, steps
            )
        return [[int(t) for t in row if t >= 0] for row in sharding.on_host(out)[: self._count]]


def mesh_of(params: Mapping[str, jax.Array]) -> contextlib.AbstractContextManager[Any]:
    """A context in which the mesh that parameters live on is set; nothing on a single device."""
    for value in params.values():
        held = value.sharding
        if isinstance(held, NamedSharding) and held.mesh.size > 1:
            return jax.set_mesh(held.mesh)  # type: ignore[arg-type]
    return contextlib.nullcontext()


def bucket(size: int, smallest: int) -> int:
    """The next of smallest · {1, 1.5, 2, 3, 4, 6, 8, ...}: at most a third is padding.

    Args:
        size: What must fit.
        smallest: An even number.
    """
    step = smallest
    while step < size:
        if step * 3 // 2 >= size:
            return step * 3 // 2
        step *= 2
    return step


def prompt_length(longest: int) -> int:
    """Tokens that a batch's prompts are padded to."""
    padded = bucket(longest, 16)
    chunk = loop.PREFILL_CHUNK
    return padded if padded <= chunk else -(-padded // chunk) * chunk


def total_length(padded_prompt: int, longest: int) -> int:
    """Slots of a batch's cache.

    Args:
        padded_prompt: From `prompt_length`.
        longest: The largest sum of a prompt and its new tokens.
    """
    return max(padded_prompt, bucket(longest, 64))


def batch_rows(rows: int, multiple: int = 1) -> int:
    """Rows that a batch is padded to: a power of two and a multiple of the mesh's batch shards."""
    padded = 1 << (rows - 1).bit_length()
    return -(-padded // multiple) * multiple


def group_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Groups rows of similar length.

    Args:
        lengths: Of each row, in tokens.
        size: Rows of a batch.
    Returns:
        Indices into `lengths`, longest rows first: what does not fit into memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def few_shapes(
    shapes: Sequence[tuple[int, ...]], cost: Callable[[tuple[int, ...]], float] = math.prod
) -> dict[tuple[int, ...], tuple[int, ...]]:
    """What the shapes of batches are padded to, where all are known beforehand.

    Of 40 batches (8, 64), three (8, 48), two (8, 32) and one (4, 32), the 48s become (8, 64), and
    the two stay, for to pad them would cost twice as much; the one becomes (8, 32) all the same.

    Args:
        shapes: Of each batch.
        cost: Of computing a shape, in any unit.
    Returns:
        For each of them itself, or what it is padded to.
    """
    given, chosen = {}, []
    for shape, count in sorted(collections.Counter(shapes).items(), reverse=True):
        fits = [c for c in chosen if all(map(operator.le, shape, c))]
        fits = [c for c in fits if cost(c) <= PADDING * cost(shape) or count == 1]
        if count >= WORTH_COMPILING or not fits:
            chosen.append(shape)
            fits = [shape]
        given[shape] = min(fits, key=cost)
    return given
