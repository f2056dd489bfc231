"""What a model is, by shape alone, and what a family says about its models."""

import dataclasses
import re
from typing import Any, ClassVar

from belle_jax import declaration
from belle_jax.declaration import at_least, one_of, positive, unknown, within
from belle_jax.families.published import PublishedConfig, TensorMap

VOCAB_MULTIPLE = 128
"""Tables are padded to this many rows, whatever the mesh, so that a checkpoint fits every mesh."""

SIZE = 2**31 - 1  # of an axis, which arrays count with 32 bits
LAYERS = 10_000  # the deepest published model has 126; a checkpoint of a million lists for a minute


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding."""

    kind: str = one_of('default', 'linear', 'dynamic', 'llama3')
    theta: float = positive(10_000.0)  # base of the frequencies
    factor: float = positive(
        1.0
    )  # how many times longer the context is than in pretraining; not default's
    low_freq_factor: float = positive(1.0)  # llama3: wavelengths over original / this are stretched
    high_freq_factor: float = positive(4.0)  # llama3: wavelengths under original / this are kept
    original_max_position: int = within(1, SIZE, 8192)  # llama3: the pretraining context in tokens


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything about a model that decides its arithmetic, and nothing about how it is run.

    `vocab_size` is the tokenizer's side of the tables (0: taken from the tokenizer when a model is
    trained from nothing); `padded_vocab` is what they hold. `max_position` is in tokens.
    """

    family: str = 'llama'
    vocab_size: int = within(0, SIZE, 0)
    embed: int = within(1, SIZE, 256)
    layers: int = within(1, LAYERS, 4)
    q_heads: int = within(1, SIZE, 4)
    kv_heads: int = within(0, SIZE, 0)  # 0: as many as q_heads
    head_dim: int = within(0, SIZE, 0)  # 0: embed / q_heads
    mlp: int = within(0, SIZE, 0)  # 0: what is usual in the family
    max_position: int = within(1, SIZE, 2048)
    norm_eps: float = at_least(0, 1e-5)
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    activation: str = one_of('silu', 'gelu', 'gelu_tanh', 'relu')
    rope: Rope = Rope()
    post_norm_residual: bool = False
    init_std: float = at_least(0, 0.02)
    bos_id: int | None = within(0, SIZE, None)
    eos_ids: tuple[int, ...] = within(0, SIZE, ())
    pad_id: int | None = within(0, SIZE, None)

    def __post_init__(self):
        if self.family not in list(FAMILIES):
            raise unknown('model.architecture.family', self.family, FAMILIES)
        declaration.check(self, 'model.architecture.')
        family = FAMILIES[self.family]
        for name, value in (
            ('kv_heads', self.kv_heads or self.q_heads),
            ('head_dim', self.head_dim or self.embed // max(self.q_heads, 1)),
            ('mlp', self.mlp or family.mlp_width(self.embed)),
            ('eos_ids', tuple(self.eos_ids)),
            *family.fixed.items(),
        ):
            object.__setattr__(self, name, value)
        self._validate()
        family.check(self)

    def _validate(self):
        for name in ('kv_heads', 'head_dim', 'mlp'):  # declared from 0, which is filled in by now
            if getattr(self, name) < 1:
                raise ValueError(
                    f'model.architecture.{name}={getattr(self, name)} must be at least 1.'
                )
        if self.q_heads % self.kv_heads:
            raise ValueError(
                f'model.architecture.kv_heads={self.kv_heads} does not divide q_heads='
                f'{self.q_heads}: each key-value head serves a whole number of query heads.'
            )

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding and output tables."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `config.json` of a run directory holds them."""
        return dataclasses.asdict(self) | {'eos_ids': list(self.eos_ids)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'Architecture':
        """The inverse of `to_dict`; missing fields have defaults, others are checked."""
        return declaration.build(cls, values, 'model.architecture.')


class Family:
    """What sets a family of models apart, but for its arithmetic, which `models` has."""

    name: ClassVar[str]  # as configurations have it, here and in `model_type`
    title: ClassVar[str]  # for people
    decoder: ClassVar[str]  # where its JAX class is: 'package.module:Class'
    published_class: ClassVar[str]  # as transformers calls it
    prefix: ClassVar[str]  # of its published tensors; some files lack it
    embedding: ClassVar[str]  # published name of the embedding table
    # Published tensors, without the prefix, that are computed from the configuration.
    buffers: ClassVar[re.Pattern[str]]
    # Fields of an architecture that no model of the family has otherwise.
    fixed: ClassVar[dict[str, Any]] = {}
    licence: ClassVar[str]  # of models whose card names none, as the hub calls it
    citation: ClassVar[str]  # the paper, as BibTeX

    def presets(self) -> dict[str, Architecture]:
        """Published sizes by name."""
        return {}

    def mlp_width(self, embed: int) -> int:
        """Channels of the MLP where an architecture names none."""
        raise NotImplementedError

    def check(self, architecture: Architecture) -> None:
        """Refuses shapes that the family cannot have, with a ValueError that names the field."""

    def context_limit(self, architecture: Architecture) -> int | None:
        """Tokens that a model can read at most; None: any number."""
        return architecture.max_position

    def tensors(self, architecture: Architecture) -> list[TensorMap]:
        """Every parameter of a model, in the order in which its published files have them."""
        raise NotImplementedError

    def from_config(self, config: PublishedConfig, special: dict[str, Any]) -> Architecture:
        """The model that a published configuration means.

        Args:
            config: Its settings.
            special: Fields of the architecture that name tokens.
        Raises:
            ValueError: a setting is malformed or not known here; it is named.
        """
        raise NotImplementedError

    def to_config(self, architecture: Architecture) -> dict[str, Any]:
        """The settings of a published configuration that not all families share."""
        raise NotImplementedError


FAMILIES: dict[str, Family] = {}
PRESETS: dict[str, Architecture] = {}
"""Published sizes of all families."""


def add(family: Family) -> None:
    """Makes a family known: from here on architectures of its name can be made."""
    FAMILIES[family.name] = family
    PRESETS.update(family.presets())


def of(architecture: Architecture) -> Family:
    """The family of a model."""
    return FAMILIES[architecture.family]


def tensor_maps(architecture: Architecture) -> list[TensorMap]:
    """Every parameter of a model, in the order in which its published files have them."""
    return of(architecture).tensors(architecture)


def in_published_order(architecture: Architecture) -> list[tuple[TensorMap, int]]:
    """Every published tensor: its parameter, and which of its `their_names` it is.

    Those of a layer stand together, between what comes before the first and after the last.
    """
    entries = tensor_maps(architecture)
    stacked = [i for i, entry in enumerate(entries) if entry.layers]
    first, last = stacked[0], stacked[-1] + 1
    return [
        *((entry, 0) for entry in entries[:first]),
        *((entry, i) for i in range(architecture.layers) for entry in entries[first:last]),
        *((entry, 0) for entry in entries[last:]),
    ]
