"""The decoder that both families share: embedding, a stack of blocks, final norm, output table."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from belle_jax import sharding
from belle_jax.config import Architecture
from belle_jax.models import ops
from belle_jax.models.layers import Cache, Context, Execution, Vocabulary

ACTIVATIONS = ('batch', 'length', 'features')

REMAT_POLICIES = {
    'block': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Decoder(nnx.Module):
    """A causal language model. `blocks` is a list of groups; a group is a stack of equal layers."""

    architecture: Architecture
    execution: Execution

    def __init__(
        self,
        architecture: Architecture,
        execution: Execution,
        block: Callable[..., Any],
        norm: Callable[..., Any],
        groups: Sequence[int],
    ):
        """Declares the parameters.

        Args:
            architecture: The shape.
            execution: How to run it.
            block: Makes a stack of layers from (architecture, execution, layers).
            norm: Makes the final norm from (embed, eps).
            groups: Layers in each group; they add up to architecture.layers.
        """
        self.architecture, self.execution = architecture, execution
        self.embed = Vocabulary(architecture.padded_vocab, architecture.embed)
        self.blocks = nnx.List([block(architecture, execution, n) for n in groups])
        self.final_norm = norm(architecture.embed, architecture.norm_eps)
        if not architecture.tied:
            self.head = Vocabulary(architecture.padded_vocab, architecture.embed)

    @property
    def output(self) -> Vocabulary:
        """The table that logits come from."""
        return self.embed if self.architecture.tied else self.head

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
        return self.output.logits(h_btd, self.architecture.vocab_size)

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
            RoPE. dropout_key: Turns dropout on.
        Returns:
            [B, T, D], and with a cache the pair of it and the new cache.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        context = self._context(positions, segment_ids, rope_lengths)
        x_btd = self.embedded(tokens)
        x_btd = sharding.constrain(x_btd, ACTIVATIONS)
        if cache is None:
            for number, group in enumerate(self.blocks):
                key = None if dropout_key is None else jax.random.fold_in(dropout_key, number)
                x_btd = self._run_group(group, x_btd, context, key)
            return self.final_norm(x_btd)
        new_cache = []
        for layer in self._layers():
            x_btd, layer_cache = layer(x_btd, context, None, cache[len(new_cache)])
            new_cache.append(layer_cache)
        return self.final_norm(x_btd), tuple(new_cache)

    def embedded(self, tokens: jax.Array) -> jax.Array:
        """[B, T, D] that the first block reads."""
        return self.embed(tokens, self.dtype)

    def _context(self, positions, segment_ids, rope_lengths) -> Context:
        a = self.architecture
        if a.family == 'bloom':
            return Context(positions, segment_ids, None, None)
        lengths = None
        if a.rope.kind == 'dynamic':
            if rope_lengths is not None:
                lengths = rope_lengths[:, None]
            elif segment_ids is not None:
                lengths = ops.segment_lengths(positions, segment_ids)
            else:
                lengths = positions.max(axis=1, keepdims=True) + 1
        frequencies = ops.rope_frequencies(a.rope, a.head_dim, a.max_position, lengths)
        angles_bth = positions[..., None].astype(jnp.float32) * frequencies
        return Context(positions, segment_ids, jnp.cos(angles_bth), jnp.sin(angles_bth))

    def _run_group(self, group, x_btd, context, key):
        """One group's layers in turn: scanned, so that compile time does not grow with depth."""
        graphdef, stacked = nnx.split(group)
        count = jax.tree.leaves(stacked)[0].shape[0]

        def block(x_btd, layer):
            state, number = layer
            layer_key = None if key is None else jax.random.fold_in(key, number)
            x_btd, _ = nnx.merge(graphdef, state)(x_btd, context, layer_key, None)
            return sharding.constrain(x_btd, ACTIVATIONS), None

        if self.execution.remat != 'none':
            policy = REMAT_POLICIES[self.execution.remat]
            block = jax.checkpoint(block, policy=policy, prevent_cse=not self.execution.scan)
        if self.execution.scan and count > 1:
            return jax.lax.scan(block, x_btd, (stacked, jnp.arange(count)))[0]
        for number in range(count):
            x_btd, _ = block(x_btd, (_take(stacked, number), number))
        return x_btd

    def _layers(self):
        for group in self.blocks:
            graphdef, stacked = nnx.split(group)
            for number in range(jax.tree.leaves(stacked)[0].shape[0]):
                yield nnx.merge(graphdef, _take(stacked, number))


def _take(stacked, number: int):
    return jax.tree.map(lambda a: a[number], stacked)
