"""The decoder that all families share: embedding, a stack of blocks, final norm, output table."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax import sharding
from belle_jax.config import Architecture
from belle_jax.families import LowRank, Packing
from belle_jax.models import adapters, packed, vocabulary
from belle_jax.models.layers import Cache, Context, Linear, Vocabulary

ACTIVATIONS = ('batch', 'length', 'features')

REMAT_POLICIES = {
    'block': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """Everything that decides a model's parameters.

    Attributes:
        architecture: The shape.
        groups: Layers in each group, in order. The layers of a group have the same structure, are
            stacked, and run by one scan. All in one group by default.
        packing: How the matrices of the layers are quantised; None: they are not.
        adapter: Of the products that have one; None: there is none.
        flat: Whether weights of products are matrices, inputs by outputs, as products read them. A
            compiler may have to copy one with more dimensions first, for every token.
    """

    architecture: Architecture
    groups: tuple[int, ...] = ()
    packing: Packing | None = None
    adapter: LowRank | None = None
    flat: bool = False

    def __post_init__(self):
        layers = self.architecture.layers
        object.__setattr__(self, 'groups', tuple(self.groups) or (layers,))
        if sum(self.groups) != layers or min(self.groups) < 1:
            raise ValueError(f'groups of {self.groups} layers do not make a model of {layers}.')

    def separated(self) -> 'Blueprint':
        """The same model with every layer a group of its own."""
        return dataclasses.replace(self, groups=(1,) * self.architecture.layers)

    def for_decoding(self) -> 'Blueprint':
        """The same model with every layer a group of its own, and flat weights."""
        return dataclasses.replace(self.separated(), flat=True)


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a model's arithmetic is run; the fields are those of `config.Model` and an adapter's."""

    dtype: str = 'float32'
    attention: str = 'auto'
    remat: str = 'none'
    scan: bool = True
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    adapter_dropout: float = 0.0


class Decoder(nnx.Module):
    """A causal language model. `blocks` is a list of groups; a group is a stack of equal layers.

    A family is a subclass that names its block and its norm, and says what else it does otherwise:
    how tokens are embedded, and what its blocks read beside the hidden states.
    """

    block: ClassVar[Callable[..., Any]]
    """Makes a stack of layers from (architecture, execution, layers)."""
    norm: ClassVar[Callable[..., Any]]
    """Makes the final norm from (embed, eps)."""

    blueprint: Blueprint
    execution: Execution

    def __init__(self, blueprint: Blueprint, execution: Execution):
        """Declares the parameters that the blueprint asks for."""
        self.blueprint, self.execution = blueprint, execution
        a = blueprint.architecture
        self.embed = Vocabulary(a.padded_vocab, a.embed)
        self.blocks = nnx.List([type(self).block(a, execution, n) for n in blueprint.groups])
        self.final_norm = type(self).norm(a.embed, a.norm_eps)
        if not a.tied:
            self.head = Vocabulary(a.padded_vocab, a.embed)
        if blueprint.adapter:
            adapters.adapt(self, blueprint.adapter, execution.adapter_dropout)
        if blueprint.packing:
            packed.pack(self, blueprint.packing)
        if blueprint.flat:
            for _, module in list(nnx.iter_modules(self.blocks)):
                if isinstance(module, Linear | packed.PackedLinear):
                    module.flatten()

    @property
    def architecture(self) -> Architecture:
        """The shape."""
        return self.blueprint.architecture

    @property
    def dtype(self) -> str:
        """Of activations."""
        return self.execution.dtype

    def __call__(self, tokens, *, positions=None, segment_ids=None) -> jax.Array:
        """Logits of the next token.

        Args:
            tokens: int [B, T].
            positions: int [B, T]; by default 0 to T-1.
            segment_ids: int [B, T]; text of one segment never sees another's.
        Returns:
            float32 [B, T, V].
        """
        h_btd = self.hidden(tokens, positions=positions, segment_ids=segment_ids)
        return self.logits(h_btd)[..., : self.architecture.vocab_size]

    def logits(self, h_btd: jax.Array) -> jax.Array:
        """float32 [B, T, V padded] from final hidden states; the padding is minus infinity."""
        return self._output.logits(h_btd, self.architecture.vocab_size)

    def token_losses(self, h_btd: jax.Array, targets_bt: jax.Array) -> jax.Array:
        """The negative log-probability of each target, without the full logits being built.

        Args:
            h_btd: Final hidden states [B, T, D].
            targets_bt: int [B, T].
        Returns:
            float32 [B, T], nats.
        """
        table_vd, vocab_size = self._output.table[...], self.architecture.vocab_size
        losses_bt: Any = vocabulary.token_losses(h_btd, table_vd, targets_bt, vocab_size)
        return losses_bt

    def token_scores(self, h_btd: jax.Array, targets_bt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """How likely each target is, and whether no token is likelier; no gradient.

        Args:
            h_btd: Final hidden states [B, T, D].
            targets_bt: int [B, T].
        Returns:
            Log-probabilities, float32 [B, T], nats; and bool [B, T].
        """
        table_vd, vocab_size = self._output.table[...], self.architecture.vocab_size
        return vocabulary.token_scores(h_btd, table_vd, targets_bt, vocab_size)

    def hidden(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        cache: tuple[Cache, ...] | None = None,
        rope_lengths: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Any:
        """Final hidden states, normed.

        Args:
            tokens: int [B, T].
            positions: int [B, T]; must be given with a cache: the slot of each token.
            segment_ids: int [B, T], for packed rows; not with a cache.
            cache: Keys and values of each layer, as `models.empty_cache` makes them.
            rope_lengths: int [B], tokens that each row will have in the end; read by `dynamic`
                RoPE.
            dropout_key: Turns dropout on.
        Returns:
            [B, T, D], and with a cache the pair of it and the new cache.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        context = self.context(positions, segment_ids, rope_lengths)
        x_btd = sharding.constrain(self.embedded(tokens, context), ACTIVATIONS)
        if cache is None:
            return self.final_norm(self.run(x_btd, context, dropout_key))
        new_cache = []
        for layer, layer_cache in zip(self.layers(), cache, strict=True):
            x_btd, layer_cache = layer(x_btd, context, None, layer_cache)
            new_cache.append(layer_cache)
        return self.final_norm(x_btd), tuple(new_cache)

    def context(
        self,
        positions: jax.Array,
        segment_ids: jax.Array | None = None,
        rope_lengths: jax.Array | None = None,
    ) -> Context:
        """What every block reads beside the hidden states; arguments as in `hidden`."""
        return Context(positions, segment_ids)

    def embedded(self, tokens: jax.Array, context: Context) -> jax.Array:
        """[B, T, D] that the first block reads."""
        return self.embed(tokens, self.dtype)

    def run(
        self, x_btd: jax.Array, context: Context, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """All blocks in turn; a group is scanned, so that compile time does not grow with depth.

        Args:
            x_btd: From `embedded`, [B, T, D].
            context: From `context`.
            dropout_key: Turns dropout on.
        Returns:
            [B, T, D], not yet normed.
        """
        # Numbered through all groups: how layers are grouped changes no draw.
        key, first = None if dropout_key is None else jax.random.fold_in(dropout_key, 0), 0
        for group, count in zip(self.blocks, self.blueprint.groups, strict=True):
            x_btd = self._run_group(group, range(first, first + count), x_btd, context, key)
            first += count
        return x_btd

    def layers(self) -> Iterator[Any]:
        """The layers one by one, each a module of its own: layer(x, context, key, cache)."""
        for group, count in zip(self.blocks, self.blueprint.groups, strict=True):
            graphdef, stacked = nnx.split(group)
            for number in range(count):
                yield nnx.merge(graphdef, _take(stacked, number))

    @property
    def _output(self) -> Vocabulary:
        """The table that logits come from."""
        return self.embed if self.architecture.tied else self.head

    def _run_group(self, group, numbers: range, x_btd, context, key):
        graphdef, stacked = nnx.split(group)

        def block(x_btd, layer):
            state, number = layer
            layer_key = None if key is None else jax.random.fold_in(key, number)
            module = nnx.merge(graphdef, state)
            adapters.give_keys(module, layer_key)
            x_btd, _ = module(x_btd, context, layer_key, None)
            return sharding.constrain(x_btd, ACTIVATIONS), None

        if self.execution.remat != 'none':
            policy = REMAT_POLICIES[self.execution.remat]
            block = jax.checkpoint(block, policy=policy, prevent_cse=not self.execution.scan)
        if self.execution.scan and len(numbers) > 1:
            return jax.lax.scan(block, x_btd, (stacked, jnp.asarray(numbers)))[0]
        for place, number in enumerate(numbers):
            x_btd, _ = block(x_btd, (_take(stacked, place), number))
        return x_btd


def empty_cache(model: Decoder, batch: int, length: int) -> tuple[Cache, ...]:
    """A key-value cache: for each layer keys and values [B, K, S, H] of zeros.

    Args:
        model: Decides layers, heads and dtype.
        batch: B.
        length: S in tokens.
    """
    a = model.architecture
    shape, axes = (batch, a.kv_heads, length, a.head_dim), ('batch', 'heads', 'length', 'head_dim')

    def zeros():
        return sharding.constrain(jnp.zeros(shape, model.dtype), axes)

    return tuple((zeros(), zeros()) for _ in range(a.layers))


def _take(stacked, number: int):
    return jax.tree.map(lambda a: a[number], stacked)
