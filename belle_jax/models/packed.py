"""Modules whose weights stay packed: what a quantised model has in place of products and tables."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax.families.packing import Packing, groups, words
from belle_jax.models import vocabulary
from belle_jax.models.layers import Linear, declare, flat
from belle_jax.models.packed_product import dequantise, packed_product, unpack


class PackedLinear(nnx.Module):
    """A product with a packed weight and, where the product had one, a bias.

    Inputs are one axis, packed, sharded like the first of them was; outputs are those of the
    kernel. Scales are few, and whole along their groups on every device.
    """

    def __init__(self, linear: Linear, packing: Packing):
        """Takes the place of a product.

        Args:
            linear: The product, of which only the declaration is read.
            packing: How its weight is kept.
        """
        kernel, x_axes = linear.kernel, linear.equation.partition(',')[0]
        shape, axes = kernel.get_value().shape, kernel.get_metadata()['axes']
        layers = shape[0] if axes[0] == 'layers' else 0
        if layers:
            shape, axes = shape[1:], axes[1:]
        split = len(x_axes) - 2
        self.packing, self.inputs = packing, math.prod(shape[:split])
        outputs, out_axes, count = shape[split:], axes[split:], packing.groups(self.inputs)
        self.outputs = outputs

        def declared(rows, axis, dtype, init='zeros'):
            return declare(
                (rows, *outputs), (axis, *out_axes), init=init, layers=layers, dtype=dtype
            )

        self.words = declared(packing.words(self.inputs), axes[0], 'int32')
        self.scales = declared(count, None, 'float16', 'ones')
        if not packing.symmetric:
            self.zeros = declared(count, None, 'uint8')
        if packing.act_order:
            self.groups = declare((self.inputs,), axes[:1], layers=layers, dtype='int32')
        self.has_bias = linear.has_bias
        if self.has_bias:
            self.bias = linear.bias
        self.adapter = nnx.data(linear.adapter)

    def flatten(self) -> None:
        """Declares words, scales and zeros as matrices, outputs as one dimension."""
        self.words, self.scales = flat(self.words, 1), flat(self.scales, 1)
        if not self.packing.symmetric:
            self.zeros = flat(self.zeros, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Of activations [B, T, inputs...], in their dtype."""
        out = self.product(x)
        if self.adapter is not None:
            out = self.adapter(x, out, self)
        return out + self.bias[...].astype(out.dtype) if self.has_bias else out

    def product(self, x: jax.Array) -> jax.Array:
        """The product alone."""
        packing = self.packing
        how: dict[str, Any] = {
            'bits': packing.bits,
            'group_size': packing.group_size,
            'levels': packing.levels,
        }
        x_mk, arrays = x.reshape(-1, self.inputs), self._arrays()
        out = packed_product(x_mk, *arrays, **how)
        return out.reshape(*x.shape[:2], *self.outputs)

    def weight(self) -> jax.Array:
        """float32 [inputs, outputs]: as large as if nothing were packed."""
        packing, size = self.packing, self.packing.group_size or self.inputs
        return dequantise(*self._arrays(), self.inputs, packing.bits, size, packing.levels)

    def _arrays(self) -> tuple[Any, Any, Any, Any]:
        """Words, scales, zeros with all outputs in one axis, and groups."""
        columns, packing = math.prod(self.outputs), self.packing
        return (
            self.words[...].reshape(-1, columns),
            self.scales[...].reshape(-1, columns),
            None if packing.symmetric else self.zeros[...].reshape(-1, columns),
            self.groups[...] if packing.act_order else None,
        )


class PackedVocabulary(nnx.Module):
    """A table over the vocabulary in codes, a row a token."""

    def __init__(self, padded_vocab: int, embed: int, packing: Packing):
        """Declares codes and scales in place of a table [padded_vocab, embed]."""
        self.packing, self.embed = packing, embed
        width = words(embed, packing.tables)
        self.words = declare((padded_vocab, width), ('vocab', 'embed'), init='zeros', dtype='int32')
        size = groups(embed, packing.group_size)
        self.scales = declare((padded_vocab, size), ('vocab', None), init='ones', dtype='float16')

    @property
    def table(self) -> jax.Array:
        """float32 [V padded, D]; it is as large as if nothing were packed."""
        return self._rows(self.words[...], self.scales[...])

    def __call__(self, tokens_bt: jax.Array, dtype: str) -> jax.Array:
        """[B, T, D] of tokens [B, T]."""
        rows = self._rows(self.words[...][tokens_bt], self.scales[...][tokens_bt])
        return rows.astype(dtype)

    def logits(self, h_btd: jax.Array, vocab_size: int) -> jax.Array:
        """float32 [B, T, V padded]; the padding is minus infinity."""
        return vocabulary.logits(h_btd, self.table, vocab_size)

    def _rows(self, packed: jax.Array, scales: jax.Array) -> jax.Array:
        """float32 [..., D] of words [..., W] and scales [..., G]."""
        bits, size = self.packing.tables, self.packing.group_size or self.embed
        codes = unpack(packed.reshape(-1, packed.shape[-1]).T, bits, self.embed).T
        centred = codes.astype(jnp.float32).reshape(*packed.shape[:-1], -1) - 2 ** (bits - 1)
        wide = jnp.repeat(scales.astype(jnp.float32), size, axis=-1)[..., : self.embed]
        return centred * wide


def pack(model: Any, packing: Packing) -> None:
    """Puts packed modules in the place of a decoder's products and, where wanted, its tables."""
    for _, module in list(nnx.iter_modules(model.blocks)):
        for name, part in list(vars(module).items()):
            if isinstance(part, Linear):
                setattr(module, name, PackedLinear(part, packing))
    if packing.tables:
        a = model.architecture
        if packing.embedding:
            model.embed = PackedVocabulary(a.padded_vocab, a.embed, packing)
        if not a.tied:
            model.head = PackedVocabulary(a.padded_vocab, a.embed, packing)
