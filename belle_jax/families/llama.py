"""LLaMA 1, 2 and 3 and their like."""

import re
from typing import Any

from belle_jax.families.architecture import Architecture, Family, Rope
from belle_jax.families.published import HEAD, PublishedConfig, TensorMap, linear, table, vector

# What the published sizes of a generation share.
FIRST: dict[str, Any] = {'vocab_size': 32_000, 'norm_eps': 1e-6, 'bos_id': 1, 'eos_ids': (2,)}
SECOND: dict[str, Any] = {'norm_eps': 1e-5, 'max_position': 4096}
THIRD: dict[str, Any] = {'norm_eps': 1e-5, 'max_position': 8192, 'kv_heads': 8}
THIRD |= {'vocab_size': 128_256, 'rope': Rope(theta=500_000.0)}
THIRD |= {'bos_id': 128_000, 'eos_ids': (128_001,)}


class LlamaFamily(Family):
    """Rotary positions, RMS norms, a gated MLP."""

    name = 'llama'
    title = 'LLaMA'
    decoder = 'belle_jax.models.llama:Llama'
    published_class = 'LlamaForCausalLM'
    prefix = 'model.'
    embedding = 'model.embed_tokens.weight'
    # Transformers before 4.32 saved them with the weights.
    buffers = re.compile(r'(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)')
    licence = 'other'
    citation = """@misc{touvron2023llama,
  title = {LLaMA: Open and Efficient Foundation Language Models},
  author = {Hugo Touvron and others}, year = {2023}, eprint = {2302.13971}, archivePrefix = {arXiv}
}"""

    def presets(self) -> dict[str, Architecture]:
        """Published sizes by name."""
        return {
            'llama_7b': _size(4096, 32, 32, 11_008),
            'llama_13b': _size(5120, 40, 40, 13_824),
            'llama_30b': _size(6656, 60, 52, 17_920),
            'llama_65b': _size(8192, 80, 64, 22_016),
            'llama2_7b': _size(4096, 32, 32, 11_008, **SECOND),
            'llama2_13b': _size(5120, 40, 40, 13_824, **SECOND),
            'llama2_70b': _size(8192, 80, 64, 28_672, **SECOND, kv_heads=8),
            'llama3_8b': _size(4096, 32, 32, 14_336, **THIRD),
            'llama3_70b': _size(8192, 80, 64, 28_672, **THIRD),
        }

    def mlp_width(self, embed: int) -> int:
        """8/3 of the model's width, rounded up to 64."""
        return -(-8 * embed // 3 // 64) * 64

    def check(self, architecture: Architecture) -> None:
        """Refuses heads that cannot be rotated."""
        if architecture.head_dim % 2:
            raise ValueError(
                f'model.architecture.head_dim={architecture.head_dim} is odd: rotary positions '
                'turn pairs of channels. Choose an even head_dim.'
            )

    def context_limit(self, architecture: Architecture) -> int | None:
        """Fixed rotary positions have an end; dynamic ones read on."""
        return None if architecture.rope.kind == 'dynamic' else architecture.max_position

    def tensors(self, architecture: Architecture) -> list[TensorMap]:
        a = architecture
        d, n, k, h, f = a.embed, a.q_heads, a.kv_heads, a.head_dim, a.mlp
        ours, theirs = 'blocks.0.', self.prefix + 'layers.{layer}.'
        rows = [table('embed.table', self.embedding, a.vocab_size, d, a.padded_vocab)]
        for our, their, outputs, inputs, biased in (
            ('attention.query', 'self_attn.q_proj', (n, h), (d,), a.attention_bias),
            ('attention.key', 'self_attn.k_proj', (k, h), (d,), a.attention_bias),
            ('attention.value', 'self_attn.v_proj', (k, h), (d,), a.attention_bias),
            ('attention.out', 'self_attn.o_proj', (d,), (n, h), a.attention_bias),
            ('mlp.gate', 'mlp.gate_proj', (f,), (d,), a.mlp_bias),
            ('mlp.up', 'mlp.up_proj', (f,), (d,), a.mlp_bias),
            ('mlp.down', 'mlp.down_proj', (d,), (f,), a.mlp_bias),
        ):
            rows += linear(ours + our, theirs + their, outputs, inputs, a.layers, biased)
        for our, their in (
            ('attention_norm', 'input_layernorm'),
            ('mlp_norm', 'post_attention_layernorm'),
        ):
            rows.append(vector(f'{ours}{our}.scale', f'{theirs}{their}.weight', (d,), a.layers))
        rows.append(vector('final_norm.scale', self.prefix + 'norm.weight', (d,)))
        if not a.tied:
            rows.append(table('head.table', HEAD, a.vocab_size, d, a.padded_vocab))
        return rows

    def from_config(self, config: PublishedConfig, special: dict[str, Any]) -> Architecture:
        embed = config.count('hidden_size', default=4096)
        heads = config.count('num_attention_heads', default=32)
        if not config.get('head_dim') and embed % heads:
            raise ValueError(f'num_attention_heads={heads} does not divide hidden_size={embed}.')
        # LLaMA-1's first conversions: max_sequence_length.
        positions = config.count('max_position_embeddings', 'max_sequence_length', default=2048)
        return Architecture(
            family=self.name,
            vocab_size=config.count('vocab_size', default=32_000),
            embed=embed,
            layers=config.count('num_hidden_layers', default=32),
            q_heads=heads,
            kv_heads=config.count('num_key_value_heads', default=heads),
            head_dim=config.count('head_dim', default=embed // heads),
            mlp=config.count('intermediate_size', default=11_008),
            max_position=positions,
            norm_eps=config.number('rms_norm_eps', 1e-6),
            tied=config.flag('tie_word_embeddings', False),
            attention_bias=config.flag('attention_bias', False),
            mlp_bias=config.flag('mlp_bias', False),
            activation=config.activation('hidden_act', default='silu'),
            rope=_rope(config, positions),
            init_std=config.number('initializer_range', 0.02),
            **special,
        )

    def to_config(self, architecture: Architecture) -> dict[str, Any]:
        a = architecture
        rope: dict[str, Any] = {'rope_type': a.rope.kind}
        if a.rope.kind != 'default':
            rope['factor'] = a.rope.factor
        if a.rope.kind == 'llama3':
            rope['low_freq_factor'] = a.rope.low_freq_factor
            rope['high_freq_factor'] = a.rope.high_freq_factor
            rope['original_max_position_embeddings'] = a.rope.original_max_position
        return {
            'intermediate_size': a.mlp,
            'num_hidden_layers': a.layers,
            'num_attention_heads': a.q_heads,
            'num_key_value_heads': a.kv_heads,
            'head_dim': a.head_dim,
            'hidden_act': 'gelu_pytorch_tanh' if a.activation == 'gelu_tanh' else a.activation,
            'max_position_embeddings': a.max_position,
            'rms_norm_eps': a.norm_eps,
            'attention_bias': a.attention_bias,
            'mlp_bias': a.mlp_bias,
            'rope_theta': a.rope.theta,
            # transformers before 4.43 knows `type` alone.
            'rope_scaling': None if a.rope.kind == 'default' else rope | {'type': a.rope.kind},
            'rope_parameters': rope | {'rope_theta': a.rope.theta},
        }


def _rope(config: PublishedConfig, positions: int) -> Rope:
    # In transformers, too, the old key wins where both are there.
    values = config.table('rope_scaling', 'rope_parameters')
    kind = values.get('rope_type', values.get('type', 'default'))
    theta = PublishedConfig({**config.values, **values}).number('rope_theta', 10_000.0, above=True)
    part = values.get('partial_rotary_factor', config.get('partial_rotary_factor', default=1.0))
    if part != 1:
        raise ValueError(f'partial_rotary_factor={part}: only whole heads are rotated here.')
    if kind == 'default':
        return Rope(theta=theta)
    if kind not in ('linear', 'dynamic', 'llama3'):
        raise ValueError(f'rope_type={kind!r} is not known: default, linear, dynamic, llama3 are.')
    needed = ('factor', 'low_freq_factor', 'high_freq_factor')
    scaling = PublishedConfig({f'rope_scaling.{name}': value for name, value in values.items()})
    needed = needed if kind == 'llama3' else needed[:1]
    factors = [scaling.number(f'rope_scaling.{name}', None, above=True) for name in needed]
    if kind != 'llama3':
        return Rope(kind, theta, factors[0])
    name = 'original_max_position_embeddings'
    said = config if config.get(name) else PublishedConfig(values)
    original = said.count(name, default=positions)
    factor, low, high = factors
    return Rope(kind, theta, factor, low, high, original_max_position=int(original))


def _size(embed: int, layers: int, heads: int, mlp: int, **others: Any) -> Architecture:
    own: dict[str, Any] = {'embed': embed, 'layers': layers, 'q_heads': heads, 'mlp': mlp}
    return Architecture(**FIRST | own | others)
