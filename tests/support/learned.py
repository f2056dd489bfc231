"""A third family from elsewhere: a LLaMA with learned positions in place of rotary ones."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from belle_jax.families import Architecture, Rope
from belle_jax.families.llama import LlamaFamily
from belle_jax.families.published import table
from belle_jax.models.layers import Context, declare
from belle_jax.models.llama import Llama


class LearnedFamily(LlamaFamily):
    """What is known of its models, without JAX."""

    name = 'learned'
    title = 'Learned'
    decoder = 'learned:Learned'
    published_class = 'LearnedForCausalLM'
    fixed: ClassVar[dict[str, Any]] = {'rope': Rope(theta=1.0)}

    def presets(self) -> dict[str, Architecture]:
        """Its only size."""
        return {'learned_tiny': Architecture('learned', 96, 16, 2, 2, max_position=40)}

    def tensors(self, architecture: Architecture):
        """LLaMA's, and the table of positions."""
        a = architecture
        name = 'model.embed_positions.weight'
        positions = table('positions', name, a.max_position, a.embed, a.max_position)
        return [*super().tensors(a), positions]


class Learned(Llama):
    """The decoder."""

    def __init__(self, blueprint, execution):
        super().__init__(blueprint, execution)
        shape = self.architecture.max_position, self.architecture.embed
        self.positions = declare(shape, (None, 'embed'))

    def context(self, positions, segment_ids=None, rope_lengths=None) -> Context:
        """Nothing is rotated."""
        shape = *positions.shape, self.architecture.head_dim // 2
        return Context(positions, segment_ids, jnp.ones(shape), jnp.zeros(shape))

    def embedded(self, tokens: jax.Array, context: Context) -> jax.Array:
        """Tokens and their positions."""
        positions_btd = self.positions[...][context.positions].astype(self.dtype)
        return super().embedded(tokens, context) + positions_btd
