"""The GPTQ of a whole model, a layer at a time.

A text goes through the model. A layer is read; its products are quantised in the order in which the
layer comes to them, each for what it will really read; and the text goes on through the layer as it
is now. Where errors of earlier layers are to be made up for, the same text goes through the model
as it was, beside.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from belle_jax import sharding
from belle_jax.quantization import sums
from belle_jax.quantization.calibration import Calibration
from belle_jax.quantization.layer import Params, Walk, programs
from belle_jax.quantization.matrices import Quantising, quantise
from belle_jax.quantization.solver import Solution
from belle_jax.quantization.tuning import TextRows, Tuner, Tuning
from belle_jax.runs.parameters import Parameters

STEP_TOKENS = 8192
"""Tokens of a batch on one device."""

FLOAT32 = np.dtype(np.float32)


@dataclasses.dataclass(frozen=True)
class Method:
    """All that decides codes, but the model and the text.

    Attributes:
        matrices: How each stage's are quantised.
        sequential: Whether a product is quantised for inputs that earlier products of the same
            layer have changed, not only earlier layers.
        tuning: How a layer is trained once its matrices are quantised; None: it is not.
        seed: Of the order in which training reads the text.
    """

    matrices: Quantising
    sequential: bool = True
    tuning: Tuning | None = None
    seed: int = 0


class Quantised(NamedTuple):
    """A layer."""

    solutions: dict[str, Solution]  # by product
    floats: dict[str, jax.Array]  # norms and biases


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one matrix.

    Attributes:
        layer: Its layer's number.
        name: Of the product.
        error: The mean square that its outputs change by; if its weights were moved to make up for
            errors of its inputs, from there.
        rounding: The same, had the weights been rounded where they were.
        damp: The damping that its Hessian took; None: it could not be factored, and the weights
            are rounded.
        seconds: That it took, with those of the same input.
    """

    layer: int
    name: str
    error: float
    rounding: float
    damp: float | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class LayerTuning:
    """What training did to one layer.

    Attributes:
        layer: Its number.
        before: The mean square that its outputs are off by, as a fraction of their own.
        after: The same when it was trained.
        seconds: That it took.
    """

    layer: int
    before: float
    after: float
    seconds: float


class Quantiser:
    """Quantises the layers of a model, which are asked for in order.

    Attributes:
        outcomes: One for each matrix that was quantised here.
        tunings: One for each layer that was trained here.
    """

    def __init__(
        self,
        source: Parameters,
        method: Method,
        calibration: Calibration,
        tables: Mapping[str, np.ndarray] | None = None,
        devices: int = 1,
    ):
        """
        Args:
            source: The model, of which one layer is read at a time.
            method: How.
            calibration: What it reads.
            tables: What stands in place of tables that are quantised, by parameter.
            devices: Of the mesh that is set, over which the text is spread.
        """
        self._source, self._method = source, method
        self._program, self._ends = programs(source.architecture)
        self.outcomes: list[Outcome] = []
        self.tunings: list[LayerTuning] = []
        self._exact_ends = {name: self._whole(name) for name in self._ends.names}
        self._read_ends = self._exact_ends
        if tables:
            self._read_ends = self._exact_ends | {n: jnp.asarray(t) for n, t in tables.items()}
        batches = _batches(calibration.tokens, calibration.mask, devices)
        self._read = self._embedded(self._read_ends, batches)
        two_streams = self._propagates or method.tuning
        self._exact = self._embedded(self._exact_ends, batches if two_streams else [])
        self._masks = [mask for _, mask in batches]
        held = calibration.held
        self._held = _batches(held, np.ones(held.shape, bool), devices) if len(held) else []
        self._held_read = self._embedded(self._read_ends, self._held)
        self._held_exact = self._embedded(self._exact_ends, self._held)
        self._tuner = None
        if tuning := method.tuning:
            steps = tuning.epochs * sum(-(-len(mask) // tuning.rows) for mask in self._masks)
            self._tuner = Tuner(self._program, method.matrices.solving.codes, tuning, steps)

    def layer(self, number: int, done: Quantised | None = None) -> Quantised:
        """Quantises a layer and lets the text through it.

        Args:
            number: Of the layer.
            done: What an earlier process made of it, to be taken as it is.
        Returns:
            The layer.
        """
        exact = {name: self._whole(f'blocks.0.{name}', number) for name in self._program.names}
        made = done or self._solve(number, exact)
        tunes = self._method.tuning and not done
        last = number + 1 == self._source.architecture.layers
        if last and not tunes:  # nothing reads the text any more
            self._read, self._exact = [], []
        for walk in (*self._exact, *self._held_exact):
            walk.end(exact)
        if tunes:
            made = self._tune(number, exact, made)
        params = made.floats | _kernels(made.solutions)
        for walk in (*self._read, *self._held_read):
            walk.end(params)
        return made

    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """How well the text that was held out is foretold, once all layers are done.

        Returns:
            The mean loss of each window, float64 [M], nats a token: by the model as it was, and as
            it is now.
        """
        exact = self._losses(self._exact_ends, self._held_exact)
        return exact, self._losses(self._read_ends, self._held_read)

    def _losses(self, ends: Mapping[str, jax.Array], walks: Sequence[Walk]) -> np.ndarray:
        rows = [np.zeros(0)]
        for walk, (tokens, mask) in zip(walks, self._held, strict=True):
            losses = sharding.on_host(self._ends.losses(ends, walk.x_btd, tokens))
            rows.append(losses.mean(axis=1, dtype=np.float64)[mask.all(axis=1)])
        return np.concatenate(rows)

    def _embedded(
        self, ends: Params, batches: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> list[Walk]:
        """A text before the first layer."""
        states = (self._ends.embedded(ends, tokens) for tokens, _ in batches)
        return [Walk(self._program, sharding.on_host(x_btd)) for x_btd in states]

    def _tune(self, number: int, exact: dict[str, jax.Array], made: Quantised) -> Quantised:
        assert self._tuner and self._method.tuning
        begun, rows = time.monotonic(), self._method.tuning.rows
        samples = [
            TextRows(*(part[i : i + rows] for part in (read.x_btd, wanted.x_btd, mask)))
            for read, wanted, mask in zip(self._read, self._exact, self._masks, strict=True)
            for i in range(0, len(mask), rows)
        ]
        rng = np.random.default_rng((self._method.seed, number))
        tuned = self._tuner.tune(exact, made.solutions, samples, rng)
        took = time.monotonic() - begun
        self.tunings.append(LayerTuning(number, tuned.before, tuned.after, took))
        return Quantised(tuned.solutions, tuned.floats)

    def _whole(self, name: str, layer: int | None = None) -> jax.Array:
        """A parameter, or a layer's part of it."""
        index = [slice(0, n) for n in self._source.shapes[name]]
        if layer is not None:
            index[0] = slice(layer, layer + 1)
        array = self._source.read(name, tuple(index), FLOAT32)
        if not np.isfinite(array).all():
            place = name if layer is None else f'{name.removeprefix("blocks.0.")} of layer {layer}'
            raise ValueError(
                f'{place} holds numbers that are not finite: the weights are damaged. Take them '
                'again from where they came.'
            )
        return jnp.asarray(array if layer is None else array[0])

    def _solve(self, number: int, exact: dict[str, jax.Array]) -> Quantised:
        solutions: dict[str, Solution] = {}
        walks = self._read
        if self._method.tuning or not self._method.sequential:
            # What is quantised changes behind them: these go ahead, and the text goes again.
            walks = [walk.copy() for walk in walks]
        for names in self._program.stages:
            begun = time.monotonic()
            params = exact | _kernels(solutions) if self._method.sequential else exact
            h, c = self._sums(walks, params, exact)
            parts = [exact[f'{name}.kernel'] for name in names]
            solved, damp = quantise(parts, h, c, self._method.matrices)
            took = time.monotonic() - begun
            for name, (solution, error, rounding) in zip(names, solved, strict=True):
                solutions[name] = solution
                self.outcomes.append(Outcome(number, name, error, rounding, damp, took))
        floats = {name: a for name, a in exact.items() if not name.endswith('.kernel')}
        return Quantised(solutions, floats)

    @property
    def _propagates(self) -> bool:
        return bool(self._method.matrices.propagate)

    def _sums(
        self, walks: Sequence[Walk], params: Params, exact: Params
    ) -> tuple[jax.Array, jax.Array | None]:
        """Mean products of what the next stage reads, and those with what it lacks."""
        h, c = None, None
        for i, (walk, mask) in enumerate(zip(walks, self._masks, strict=True)):
            x = walk.follow(params)
            h = sums.of_squares(x, mask, h)
            if self._propagates:
                c = sums.of_products(x, self._exact[i].follow(exact) - x, mask, c)
                self._exact[i].settle(exact)
        count = sum(int(mask.sum()) for mask in self._masks)
        assert h is not None
        return h / count, None if c is None else c / count


def _kernels(solutions: Mapping[str, Solution]) -> dict[str, jax.Array]:
    """The weights that codes stand for, by parameter."""
    return {f'{name}.kernel': solution.weights for name, solution in solutions.items()}


def _batches(
    tokens: np.ndarray, mask: np.ndarray, devices: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Tokens and masks in batches of equal shape, filled up with rows that are no text."""
    samples, length = tokens.shape
    rows = devices * max(1, STEP_TOKENS // length)
    rows = min(rows, -(-samples // devices) * devices)
    fill = ((0, -samples % rows), (0, 0))
    pairs = np.pad(tokens, fill), np.pad(mask, fill)
    return list(zip(*(a.reshape(-1, rows, length) for a in pairs), strict=True))
