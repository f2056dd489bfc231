"""One layer of a model at a time: what goes into its products, and what comes out of it.

A family's block is run as it is, with a tap before each product. Products that read the same array
share an input; the order in which they ask for it is the order of the arithmetic. So nothing here
knows a family.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from belle_jax import families, models, sharding
from belle_jax.families import Architecture
from belle_jax.models.decoder import ACTIVATIONS
from belle_jax.models.layers import Context, Linear

EXECUTION = models.Execution()

Params = Mapping[str, jax.Array]
"""Of one layer by name, such as 'attention.query.kernel'."""


class _Tap:
    """A product that tells what it is given, or takes what is known of that instead."""

    def __init__(self, name: str, linear: Linear, seen: dict[str, jax.Array], known: Any):
        self._name, self._linear, self._seen, self._known = name, linear, seen, known

    def __call__(self, x: jax.Array) -> jax.Array:
        self._seen[self._name] = x
        # What led to x is then computed by nobody: the compiler leaves it out.
        return self._linear(x if self._known is None else self._known.reshape(x.shape))


class LayerProgram:
    """The functions that run one layer, compiled once for all layers of a model.

    Attributes:
        names: Of a layer's parameters.
        halves: Of attention and of the MLP, the stages: products by name, those that share an input
            together, in the order in which the layer comes to them.
    """

    def __init__(self, architecture: Architecture, execution: models.Execution = EXECUTION):
        """Builds a layer without arrays.

        Args:
            architecture: The model's.
            execution: How it runs.
        """
        decoder = models.skeleton(models.Blueprint(architecture), execution)
        self._context = decoder.context
        block = type(decoder).block(architecture, execution, 0)
        self._graphdef, state = nnx.split(block)
        self._paths = {'.'.join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
        self._variables = dict(nnx.to_flat_state(state))
        self.names = tuple(self._paths)
        shapes = {n: self._variables[p].get_value() for n, p in self._paths.items()}
        x = jax.ShapeDtypeStruct((1, 8, architecture.embed), jnp.float32)
        self.halves: tuple[tuple[tuple[str, ...], ...], ...] = ((), ())
        jax.eval_shape(self._find_stages, shapes, x)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Those of both halves."""
        return sum(self.halves, ())

    def apply(self, params: Params, x_btd: jax.Array) -> jax.Array:
        """What comes out of a layer, [B, T, D], within a function that is compiled."""
        for half in range(len(self.halves)):
            x_btd, _ = self._tapped(params, half, x_btd, ())
        return x_btd

    @functools.partial(jax.jit, static_argnums=(0, 2))
    def follow(
        self, params: Params, half: int, x_btd: jax.Array, known: tuple[jax.Array | None, ...]
    ) -> jax.Array:
        """What the products of the next stage read; behind the last stage, what the half gives.

        Args:
            params: Of the layer; those of the next stage and of later ones are not read.
            half: Which.
            x_btd: What the half reads.
            known: For each stage that is past what it read, as this function gave it; None where
                it is not to be taken from here.
        Returns:
            [B, T, ...]; no more is computed than what lies between two stages.
        """
        out_btd, seen = self._tapped(params, half, x_btd, known)
        stages = self.halves[half]
        return out_btd if len(known) == len(stages) else seen[stages[len(known)][0]]

    def _find_stages(self, params: Params, x_btd: jax.Array) -> None:
        def of(half: int) -> tuple[tuple[str, ...], ...]:
            together: dict[int, list[str]] = {}
            seen = self._tapped(params, half, x_btd, ())[1]
            for name, x in seen.items():  # which are all alive: an id is of one array
                together.setdefault(id(x), []).append(name)
            return tuple(map(tuple, together.values()))

        self.halves = tuple(map(of, range(len(self.halves))))

    def _tapped(
        self, params: Params, half: int, x_btd: jax.Array, known: Sequence[jax.Array | None]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        # Each device has its rows: so a row is computed in the same way on any number of them.
        x_btd = _by_rows(x_btd)
        of_product = {
            name: _by_rows(x)
            for names, x in zip(self.halves[half], known, strict=False)
            for name in names
            if x is not None
        }
        layer, seen = self._merged(params), {}
        for path, module in list(nnx.iter_modules(layer)):
            for name, part in list(vars(module).items()):
                if isinstance(part, Linear):
                    full = '.'.join(map(str, (*path, name)))
                    tap = _Tap(full, part, seen, of_product.get(full))
                    # Of this trace alone: no pytree is made of the layer any more.
                    object.__setattr__(module, name, tap)
        out_btd = layer.fed(x_btd) if half else layer.attended(x_btd, self._at(x_btd))[0]
        return sharding.constrain(out_btd, ACTIVATIONS), seen

    def _merged(self, params: Params) -> Any:
        filled = []
        for name, path in self._paths.items():
            declared = self._variables[path]
            shape = declared.get_value().shape  # kernels may come as matrices
            filled.append((path, declared.replace(params[name].reshape(shape))))
        return nnx.merge(self._graphdef, nnx.from_flat_state(filled))

    def _at(self, x_btd: jax.Array) -> Context:
        batch, length = x_btd.shape[:2]
        return self._context(jnp.broadcast_to(jnp.arange(length), (batch, length)))


def _by_rows(x: jax.Array) -> jax.Array:
    return sharding.constrain(x, ('batch', *(None,) * (x.ndim - 1)))


class Walk:
    """A batch on its way through layers, which holds what the next step reads and no more.

    Attributes:
        x_btd: What the open half of a layer reads; between layers, what the next one reads.
    """

    def __init__(self, program: LayerProgram, x_btd: np.ndarray):
        self._program, self.x_btd, self._half = program, x_btd, 0
        self._known: tuple[np.ndarray | None, ...] = ()

    def copy(self) -> 'Walk':
        """Another, from where a layer begins."""
        return Walk(self._program, self.x_btd)

    def follow(self, params: Params) -> np.ndarray:
        """What the next stage reads, [B, T, ...]."""
        self.settle(params)
        read = self._step(params)
        # What led to it is not read again.
        self._known = (*(None for _ in self._known), read)
        return read

    def settle(self, params: Params) -> None:
        """Leaves a half whose stages are all past."""
        if len(self._known) == len(self._program.halves[self._half]):
            self.x_btd, self._known, self._half = self._step(params), (), self._half + 1

    def end(self, params: Params) -> None:
        """Goes on to where the next layer begins; by the same steps always, so to the same bits."""
        while self._half < len(self._program.halves):
            if len(self._known) < len(self._program.halves[self._half]):
                self.follow(params)
            self.settle(params)
        self._half = 0

    def _step(self, params: Params) -> np.ndarray:
        read = self._program.follow(params, self._half, self.x_btd, self._known)
        return sharding.on_host(read)


class Ends:
    """What comes before the first layer and after the last.

    Attributes:
        names: Of the parameters that it reads, which are those outside of layers.
    """

    def __init__(self, architecture: Architecture):
        """Builds a model without arrays."""
        decoder = models.skeleton(models.Blueprint(architecture), EXECUTION)
        self._graphdef, state = nnx.split(decoder)
        self._declared = {
            '.'.join(map(str, path)): (path, v) for path, v in nnx.to_flat_state(state)
        }
        self.names = tuple(name for name in self._declared if not name.startswith('blocks.'))

    @functools.partial(jax.jit, static_argnums=0)
    def embedded(self, params: Params, tokens_bt: jax.Array) -> jax.Array:
        """What the first layer reads, [B, T, D]."""
        model = self._model(params)
        positions_bt = jnp.broadcast_to(jnp.arange(tokens_bt.shape[1]), tokens_bt.shape)
        x_btd = model.embedded(tokens_bt, model.context(positions_bt))
        return sharding.constrain(x_btd, ACTIVATIONS)

    @functools.partial(jax.jit, static_argnums=0)
    def losses(self, params: Params, x_btd: jax.Array, tokens_bt: jax.Array) -> jax.Array:
        """The loss of each token but the first, float32 [B, T-1], of what the last layer gives."""
        model = self._model(params)
        h_btd = model.final_norm(x_btd)
        return model.token_losses(h_btd[:, :-1], tokens_bt[:, 1:])

    def _model(self, params: Params) -> Any:
        filled = [
            (path, v.replace(params[name]) if name in params else v)
            for name, (path, v) in self._declared.items()
        ]
        return nnx.merge(self._graphdef, nnx.from_flat_state(filled))


@functools.cache
def programs(architecture: Architecture) -> tuple[LayerProgram, Ends]:
    """The functions of an architecture, which are compiled once in a process."""
    return LayerProgram(architecture), Ends(architecture)


def kernels(architecture: Architecture) -> dict[str, families.TensorMap]:
    """The published tensors of a layer's products by their names in the layer."""
    return {
        entry.ours.removeprefix('blocks.0.').removesuffix('.kernel'): entry
        for entry in families.tensor_maps(architecture)
        if families.is_matrix(entry)
    }
