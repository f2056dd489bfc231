"""A model turned so that it is easier to round, and still computes what it did.

Channels of the residual stream, and those of each head's values, are turned by an orthogonal
matrix, which is folded into the weights on both sides: outliers are spread over all channels, and
an export is a plain model of its family. Norms have to be without a mean and a bias; their gains go
into the weights behind them. Tied tables part, for only the output's is multiplied with gains.

Source: Ashkboos et al., 2024 (QuaRot), sections 4.1 and 4.2; Liu et al., 2024 (SpinQuant), R1, R2.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from belle_jax import models
from belle_jax.families import Architecture
from belle_jax.runs.parameters import Parameters
from belle_jax.weights.tensors import Index


class Rotated:
    """The parameters of a turned model, a kind of `runs.parameters.Parameters`."""

    adapter = None

    def __init__(self, source: Parameters, seed: int):
        """
        Args:
            source: The model as it is.
            seed: Decides the matrices.
        Raises:
            ValueError: the family's norms do not allow it.
        """
        if 'final_norm.bias' in source.shapes:
            raise ValueError(
                f'--rotate does not go with a {source.architecture.family} model: its norms take '
                'away a mean, which a turned model does not have. Leave the flag out.'
            )
        self._source, self._tied, self.packing = source, source.architecture.tied, None
        self.architecture = dataclasses.replace(source.architecture, tied=False)
        self._axes = {n: s.axes for n, s in models.specs(_blueprint(self.architecture)).items()}
        self.shapes = {name: source.shapes[self._stored(name)] for name in self._axes}
        self.dtype = source.dtype
        rng = np.random.default_rng(seed)
        self._stream = orthogonal(self.architecture.embed, rng)
        self._values = orthogonal(self.architecture.head_dim, rng)

    def dtype_of(self, name: str) -> np.dtype:
        """In which a parameter was stored."""
        return self._source.dtype_of(self._stored(name))

    def read(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of a parameter; of all channels that a layer or a row of a table has."""
        shape = self.shapes[name]
        whole = (index[0], *(slice(0, n) for n in shape[1:]))
        array = jnp.asarray(self._source.read(self._stored(name), whole, np.dtype(np.float32)))
        if name.endswith('norm.scale'):
            turned = jnp.ones_like(array)
        elif name.endswith('.table'):
            gain = self._gain('final_norm.scale', None) if name == 'head.table' else 1
            turned = _times(array * gain, self._stream)
        else:
            turned = jnp.stack(
                [
                    self._turned(name, one, number)
                    for number, one in zip(range(*index[0].indices(shape[0])), array, strict=True)
                ]
            )
        return np.asarray(turned)[(slice(None), *index[1:])].astype(dtype)

    def _turned(self, name: str, array: jax.Array, layer: int) -> jax.Array:
        """A kernel or bias of one layer."""
        axes = self._axes[name][1:]
        _, _, part, product, kind = name.split('.')
        if kind == 'kernel' and axes[0] == 'embed':
            gain = self._gain(f'blocks.0.{part}_norm.scale', layer)
            scaled = array.reshape(len(gain), -1) * gain[:, None]
            array = _times(self._stream.T, scaled).reshape(array.shape)
        elif axes[-1] == 'embed':
            array = _times(array, self._stream)
        if (part, product) == ('attention', 'value'):
            array = _times(array, self._values)
        elif (part, product, kind) == ('attention', 'out', 'kernel'):
            array = jnp.einsum('nhd,hk->nkd', array, self._values, precision='highest')
        return array

    def _gain(self, name: str, layer: int | None) -> jax.Array:
        rows = slice(0, self.shapes[name][0]) if layer is None else slice(layer, layer + 1)
        index = (rows,) if layer is None else (rows, slice(0, self.shapes[name][1]))
        return jnp.asarray(self._source.read(name, index, np.dtype(np.float32))).reshape(-1)

    def _stored(self, name: str) -> str:
        return 'embed.table' if self._tied and name == 'head.table' else name


def orthogonal(size: int, rng: np.random.Generator) -> jax.Array:
    """A random orthogonal matrix, float32 [size, size].

    As far as the size is a power of two it is a Hadamard matrix with random signs, which spreads
    each channel evenly over all; the odd rest is a random rotation.
    """
    power = size & -size
    rest = np.linalg.qr(rng.standard_normal((size // power, size // power)))[0]
    hadamard = np.ones((1, 1))
    while len(hadamard) < power:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    signs = rng.choice([-1.0, 1.0], size)
    matrix = signs[:, None] * np.kron(rest, hadamard / np.sqrt(power))
    return jnp.asarray(matrix, jnp.float32)


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision='highest')


def _blueprint(architecture: Architecture) -> models.Blueprint:
    return models.Blueprint(architecture)
