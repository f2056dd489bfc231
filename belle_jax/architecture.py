"""What a model is, by shape alone: the architecture of each family and the published sizes."""

import dataclasses
from typing import Any

VOCAB_MULTIPLE = 128
"""Tables are padded to this many rows, whatever the mesh, so that a checkpoint fits every mesh."""

FAMILIES = ('llama', 'bloom')
ACTIVATIONS = ('silu', 'gelu', 'gelu_tanh', 'relu')
ROPE_KINDS = ('default', 'linear', 'dynamic', 'llama3')


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding.

    Attributes:
        kind: One of ROPE_KINDS.
        theta: Base of the frequencies.
        factor: How many times longer the context is than in pretraining (all kinds but default).
        low_freq_factor: llama3: wavelengths over original_max_position / this are stretched.
        high_freq_factor: llama3: wavelengths under original_max_position / this are kept.
        original_max_position: llama3: the pretraining context in tokens.
    """

    kind: str = 'default'
    theta: float = 10_000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything about a model that decides its arithmetic, and nothing about how it is run.

    `vocab_size` is the tokenizer's side of the tables (0: taken from the tokenizer when a model is
    trained from nothing); `padded_vocab` is what they hold. `max_position` is in tokens.
    """

    family: str = 'llama'
    vocab_size: int = 0
    embed: int = 256
    layers: int = 4
    q_heads: int = 4
    kv_heads: int = 0  # 0: as many as q_heads
    head_dim: int = 0  # 0: embed / q_heads
    mlp: int = 0  # 0: 4 · embed for BLOOM, 8/3 · embed rounded up to 64 for LLaMA
    max_position: int = 2048
    norm_eps: float = 1e-5
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    activation: str = 'silu'
    rope: Rope = Rope()
    post_norm_residual: bool = False
    init_std: float = 0.02
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self):
        bloom = self.family == 'bloom'
        default_mlp = 4 * self.embed if bloom else -(-8 * self.embed // 3 // 64) * 64
        for name, value in (
            ('kv_heads', self.kv_heads or self.q_heads),
            ('head_dim', self.head_dim or self.embed // max(self.q_heads, 1)),
            ('mlp', self.mlp or default_mlp),
            ('eos_ids', tuple(self.eos_ids)),
        ):
            object.__setattr__(self, name, value)
        if bloom:  # every published BLOOM has these, and its code knows no other
            for name, value in (('attention_bias', True), ('mlp_bias', True)):
                object.__setattr__(self, name, value)
            object.__setattr__(self, 'activation', 'gelu_tanh')
        self._validate()

    def _validate(self):
        for name, value, allowed in (
            ('family', self.family, FAMILIES),
            ('activation', self.activation, ACTIVATIONS),
            ('rope.kind', self.rope.kind, ROPE_KINDS),
        ):
            if value not in allowed:
                raise ValueError(
                    f'model.architecture.{name}={value!r} is not known: choose one of '
                    f'{", ".join(allowed)}.'
                )
        for name in ('embed', 'layers', 'q_heads', 'kv_heads', 'head_dim', 'mlp', 'max_position'):
            if getattr(self, name) < 1:
                raise ValueError(
                    f'model.architecture.{name}={getattr(self, name)} must be at least 1.'
                )
        if self.q_heads % self.kv_heads:
            raise ValueError(
                f'model.architecture.kv_heads={self.kv_heads} does not divide q_heads='
                f'{self.q_heads}: each key-value head serves a whole number of query heads.'
            )
        if self.family == 'bloom' and self.kv_heads != self.q_heads:
            raise ValueError(
                f'model.architecture.kv_heads={self.kv_heads} differs from q_heads={self.q_heads}: '
                'BLOOM has one key-value head for each query head. Leave kv_heads unset.'
            )
        if self.family == 'llama' and self.head_dim % 2:
            raise ValueError(
                f'model.architecture.head_dim={self.head_dim} is odd: rotary positions turn pairs '
                'of channels. Choose an even head_dim.'
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
        """The inverse of `to_dict`; a missing field takes its default, an unknown one is an error.

        Raises:
            ValueError: naming the field.
        """
        values = dict(values)
        if isinstance(rope := values.get('rope'), dict):
            _reject_unknown(rope, Rope, 'model.architecture.rope')
            values['rope'] = Rope(**rope)
        _reject_unknown(values, cls, 'model.architecture')
        return cls(**values)


def _reject_unknown(values: dict[str, Any], cls: type, place: str) -> None:
    known = {f.name for f in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise ValueError(
                f'{place}.{name} is not a field: the fields are {", ".join(sorted(known))}.'
            )


def _bloom(embed: int, layers: int, heads: int) -> Architecture:
    return Architecture(
        family='bloom',
        vocab_size=250_880,
        embed=embed,
        layers=layers,
        q_heads=heads,
        tied=True,
        bos_id=1,
        eos_ids=(2,),
        pad_id=3,
    )


def _llama(embed, layers, heads, mlp, *, kv_heads=0, norm_eps=1e-6, max_position=2048):
    return Architecture(
        vocab_size=32_000,
        embed=embed,
        layers=layers,
        q_heads=heads,
        kv_heads=kv_heads,
        mlp=mlp,
        norm_eps=norm_eps,
        max_position=max_position,
        bos_id=1,
        eos_ids=(2,),
    )


def _llama2(embed, layers, heads, mlp, kv_heads=0):
    return _llama(embed, layers, heads, mlp, kv_heads=kv_heads, norm_eps=1e-5, max_position=4096)


def _llama3(embed, layers, heads, mlp):
    return dataclasses.replace(
        _llama(embed, layers, heads, mlp, kv_heads=8, norm_eps=1e-5, max_position=8192),
        vocab_size=128_256,
        rope=Rope(theta=500_000.0),
        bos_id=128_000,
        eos_ids=(128_001,),
    )


PRESETS: dict[str, Architecture] = {
    'bloom_560m': _bloom(1024, 24, 16),
    'bloom_1b1': _bloom(1536, 24, 16),
    'bloom_1b7': _bloom(2048, 24, 16),
    'bloom_3b': _bloom(2560, 30, 32),
    'bloom_7b1': _bloom(4096, 30, 32),
    'bloom_176b': _bloom(14_336, 70, 112),
    'llama_7b': _llama(4096, 32, 32, 11_008),
    'llama_13b': _llama(5120, 40, 40, 13_824),
    'llama_30b': _llama(6656, 60, 52, 17_920),
    'llama_65b': _llama(8192, 80, 64, 22_016),
    'llama2_7b': _llama2(4096, 32, 32, 11_008),
    'llama2_13b': _llama2(5120, 40, 40, 13_824),
    'llama2_70b': _llama2(8192, 80, 64, 28_672, kv_heads=8),
    'llama3_8b': _llama3(4096, 32, 32, 14_336),
    'llama3_70b': _llama3(8192, 80, 64, 28_672),
}
"""Published sizes; the BLOOMZ models have BLOOM's."""
