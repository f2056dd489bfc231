"""Codes and scales of one layer trained together, so that it does what it did before.

GPTQ rounds one matrix after the other and never looks at a layer's outputs. Here the layer reads
the text as the quantised layers before leave it, and is trained towards what it gave when nothing
was quantised. A weight's code is a number that rounds to it, and gradients pass the rounding as if
it were not there; scales are numbers of the file's dtype in the same way. Norms and biases, which
stay floating-point numbers, are trained beside.

Source: Chen et al., 2024 (EfficientQAT), section 3.2: block-wise training of all parameters.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from belle_jax import sharding
from belle_jax.quantization.grid import Codes
from belle_jax.quantization.layer import LayerProgram
from belle_jax.quantization.solver import Solution


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How long, and how fast.

    Attributes:
        epochs: Times that the calibration text is read.
        code_rate: Learning rate of codes; one code further is 1.
        scale_rate: Learning rate of scales, as a fraction of each.
        float_rate: Learning rate of norms and biases.
        rows: Samples of a step.
    """

    epochs: int = 4
    code_rate: float = 1e-2
    scale_rate: float = 1e-3
    float_rate: float = 1e-3
    rows: int = 4


class TextRows(NamedTuple):
    """Rows of a step."""

    read_btd: np.ndarray  # what the quantised layer reads
    wanted_btd: np.ndarray  # what the exact layer gave
    mask_bt: np.ndarray


class Tuned(NamedTuple):
    """What came of it."""

    solutions: dict[str, Solution]
    floats: dict[str, jax.Array]  # norms and biases of the layer
    before: float  # mean square error of the layer's outputs, as a fraction of their variance
    after: float


class Tuner:
    """Trains layers of one model; its step is compiled once."""

    def __init__(self, program: LayerProgram, codes: Codes, tuning: Tuning, steps: int):
        """
        Args:
            program: Runs a layer.
            codes: Which there are.
            tuning: How.
            steps: Of one layer's training.
        """
        self._program, self._codes, self._tuning = program, codes, tuning
        rates = {
            'codes': tuning.code_rate,
            'scales': tuning.scale_rate,
            'floats': tuning.float_rate,
        }
        self._optimiser = optax.multi_transform(
            {
                name: optax.adam(optax.cosine_decay_schedule(rate, steps), b2=0.99)
                for name, rate in rates.items()
            },
            lambda params: {name: name for name in params},
        )

    def tune(
        self,
        exact: Mapping[str, jax.Array],
        solutions: Mapping[str, Solution],
        samples: Sequence[TextRows],
        rng: np.random.Generator,
    ) -> Tuned:
        """Trains one layer.

        Args:
            exact: Its parameters as they were.
            solutions: Its matrices as GPTQ leaves them.
            samples: The calibration text, by steps.
            rng: Decides their order.
        """
        kernels = {f'{name}.kernel' for name in solutions}
        fixed = {name: (s.zeros, s.groups) for name, s in solutions.items()}
        params = {
            'codes': {n: self._latent(exact[f'{n}.kernel'], s) for n, s in solutions.items()},
            'scales': {n: jnp.zeros_like(s.scales) for n, s in solutions.items()},
            'floats': {n: a for n, a in exact.items() if n not in kernels},
        }
        start = {name: s.scales for name, s in solutions.items()}
        best, least = params, self._mean(params, start, fixed, samples)
        before, state = least, self._optimiser.init(params)
        for _ in range(self._tuning.epochs):
            for i in rng.permutation(len(samples)):
                params, state = self._step(params, state, start, fixed, samples[i])
            loss = self._mean(params, start, fixed, samples)
            if loss < least:
                best, least = params, loss
        found = {name: self._solution(name, best, start, s) for name, s in solutions.items()}
        found, floats = sharding.on_host((found, best['floats']))
        return Tuned(found, floats, before, least)

    def _latent(self, kernel: jax.Array, solution: Solution) -> jax.Array:
        """Numbers that round to the codes, each on the side where its weight was."""
        scales, zeros = solution.scales[solution.groups], solution.zeros[solution.groups]
        w, code = kernel.reshape(solution.codes.shape), solution.codes.astype(jnp.float32)
        return code + jnp.clip(w / scales + zeros.astype(jnp.float32) - code, -0.49, 0.49)

    def _mean(self, params, start, fixed, samples) -> float:
        losses = [self._loss(params, start, fixed, sample) for sample in samples]
        return float(np.mean(jax.device_get(losses)))

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def _step(self, params, state, start, fixed, sample: TextRows):
        gradients = jax.grad(self._loss_of)(params, start, fixed, sample)
        updates, state = self._optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    @functools.partial(jax.jit, static_argnums=0)
    def _loss(self, params, start, fixed, sample: TextRows):
        return self._loss_of(params, start, fixed, sample)

    def _loss_of(self, params, start, fixed, sample: TextRows) -> jax.Array:
        layer = dict(params['floats'])
        for name, (zeros, groups) in fixed.items():
            codes, scales = self._numbers(name, params, start)
            weights = scales[groups] * (codes - zeros[groups].astype(jnp.float32))
            layer[f'{name}.kernel'] = weights
        out_btd = self._program.apply(layer, jnp.asarray(sample.read_btd))
        weight = sample.mask_bt[..., None]
        wanted = jnp.asarray(sample.wanted_btd)
        error = jnp.sum(jnp.square(out_btd - wanted) * weight)
        return error / jnp.sum(jnp.square(wanted) * weight)

    def _numbers(self, name: str, params: Any, start: Any) -> tuple[jax.Array, jax.Array]:
        latent = jnp.clip(params['codes'][name], 0, self._codes.top)
        scales = start[name] * (1 + params['scales'][name])
        stored = scales.astype(self._codes.scale_dtype).astype(scales.dtype)
        return _straight(latent, jnp.round(latent)), _straight(scales, stored)

    def _solution(self, name: str, params: Any, start: Any, before: Solution) -> Solution:
        codes, scales = self._numbers(name, params, start)
        codes = jnp.round(codes)
        weights = scales[before.groups] * (codes - before.zeros[before.groups].astype(jnp.float32))
        return before._replace(codes=codes.astype(jnp.uint8), scales=scales, weights=weights)


def _straight(value: jax.Array, becomes: jax.Array) -> jax.Array:
    """What a number becomes, with the gradient of the number."""
    return value + jax.lax.stop_gradient(becomes - value)
