"""Low-rank adapters beside products, packed or not, which stay as they are.

Legend as in `layers`, and R rank.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax.families import LowRank
from belle_jax.models.layers import Linear, declare, dropout


class LowRankProduct(nnx.Module):
    """scale · B A x, added to a product; with DoRA every output is brought to its magnitude too.

    It begins as nothing: b is zero, and a magnitude is that of the weight (see `magnitude`).
    """

    def __init__(self, linear: Linear, adapter: LowRank, rate: float):
        """Declares the arrays.

        Args:
            linear: The product, of which only the declaration is read.
            adapter: Rank and scale.
            rate: Of dropout on what A reads.
        """
        kernel = linear.kernel
        shape, axes = kernel.get_value().shape, kernel.get_metadata()['axes']
        layers = shape[0] if axes[0] == 'layers' else 0
        if layers:
            shape, axes = shape[1:], axes[1:]
        split = linear.inputs
        self.settings, self.rate = adapter, rate
        self.key: Any = nnx.data(None)

        def own(shape, axes, init):
            return declare(shape, axes, init=init, layers=layers, part='adapter')

        rank = adapter.rank
        self.a = own((*shape[:split], rank), (*axes[:split], None), 'uniform')
        self.b = own((rank, *shape[split:]), (None, *axes[split:]), 'zeros')
        if adapter.dora:
            self.magnitude = own(shape[split:], axes[split:], 'ones')

    def __call__(self, x: jax.Array, out: jax.Array, linear: Any) -> jax.Array:
        """The adapted product.

        Args:
            x: What went into the product.
            out: What came out of it, without its bias.
            linear: The product.
        Source: peft's `LoraLayer` and `DoraLinearLayer`: the same numbers.
        """
        dropped = dropout(x, self.rate, self.key)
        rank = self.settings.rank
        low = dropped.reshape(-1, self.a[...].size // rank) @ _matrix(self.a, -1, rank, x.dtype)
        added = (low @ _matrix(self.b, rank, -1, x.dtype)).reshape(out.shape) * self.settings.scale
        if not self.settings.dora:
            return out + added
        norms = jax.lax.stop_gradient(magnitude(linear))
        ratio = (self.magnitude[...].astype(jnp.float32) / norms).astype(out.dtype)
        plain = out if dropped is x else linear.product(dropped)
        return out + (ratio - 1) * plain + ratio * added


def _matrix(param: nnx.Param, rows: int, columns: int, dtype: Any) -> jax.Array:
    return param[...].astype(dtype).reshape(rows, columns)


def magnitude(linear: Any) -> jax.Array:
    """float32 [outputs…], the norm over the inputs of a weight and its adapter together."""
    adapter = linear.adapter
    a = adapter.a[...].astype(jnp.float32).reshape(-1, adapter.settings.rank)
    b = adapter.b[...].astype(jnp.float32)
    whole = linear.weight().reshape(len(a), -1) + adapter.settings.scale * (
        a @ b.reshape(len(b), -1)
    )
    return _norms(whole).reshape(b.shape[1:])


def _norms(matrix: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(matrix * matrix, axis=0))


def magnitudes(group: Any) -> dict[str, jax.Array]:
    """What the magnitudes of a stack's adapters are at first, by their names within a layer.

    That is the weights' own, for B is zero; and XLA's CPU compiler of jax 0.10 gets the norms of a
    small W + c · A B wrong where it knows that.
    """
    graphdef, stacked = nnx.split(group)

    def of_weight(linear):
        adapter = linear.adapter
        inputs = adapter.a[...].size // adapter.settings.rank
        outputs = adapter.magnitude[...].shape
        return _norms(linear.weight().reshape(inputs, -1)).reshape(outputs)

    def of_layer(state):
        return {
            f'{".".join(map(str, path))}.adapter.magnitude': of_weight(module)
            for path, module in nnx.iter_modules(nnx.merge(graphdef, state))
            if getattr(module, 'adapter', None) is not None
        }

    return jax.lax.map(of_layer, stacked)  # one after the other: a weight is float32 meanwhile


def adapt(model: Any, adapter: LowRank, rate: float) -> None:
    """Puts adapters beside the products of a decoder that are targets."""
    for group in model.blocks:
        for path, module in list(nnx.iter_modules(group)):
            name = '.'.join(map(str, path))
            if isinstance(module, Linear) and name in adapter.targets:
                module.adapter = nnx.data(LowRankProduct(module, adapter, rate))


def give_keys(layer: Any, key: jax.Array | None) -> None:
    """Turns dropout on in the adapters of a layer; each has draws of its own, by its name."""
    if key is None:
        return
    for path, module in nnx.iter_modules(layer):
        if isinstance(module, LowRankProduct) and module.rate:
            own = zlib.crc32('.'.join(map(str, path)).encode())
            module.key = nnx.data(jax.random.fold_in(key, own))
