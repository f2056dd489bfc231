"""BLOOM and BLOOMZ."""

import re
from typing import Any, ClassVar

from belle_jax.families.architecture import Architecture, Family
from belle_jax.families.published import HEAD, PublishedConfig, TensorMap, linear, norm, table


class BloomFamily(Family):
    """ALiBi, layer norms, a norm behind the embedding, biases everywhere."""

    name = 'bloom'
    title = 'BLOOM'
    decoder = 'belle_jax.models.bloom:Bloom'
    published_class = 'BloomForCausalLM'
    prefix = 'transformer.'
    embedding = 'transformer.word_embeddings.weight'
    # Causal masks, as GPT-2's code has them.
    buffers = re.compile(r'h\.\d+\.(self_attention|attn)\.(masked_)?bias')
    # Every published BLOOM has these, and its code knows no other.
    fixed: ClassVar = {'attention_bias': True, 'mlp_bias': True, 'activation': 'gelu_tanh'}
    licence = 'bigscience-bloom-rail-1.0'
    citation = """@misc{bigscience2022bloom,
  title = {BLOOM: A 176B-Parameter Open-Access Multilingual Language Model},
  author = {BigScience Workshop}, year = {2022}, eprint = {2211.05100}, archivePrefix = {arXiv}
}"""

    def presets(self) -> dict[str, Architecture]:
        """Published sizes by name; the BLOOMZ models have BLOOM's."""
        return {
            'bloom_560m': _size(1024, 24, 16),
            'bloom_1b1': _size(1536, 24, 16),
            'bloom_1b7': _size(2048, 24, 16),
            'bloom_3b': _size(2560, 30, 32),
            'bloom_7b1': _size(4096, 30, 32),
            'bloom_176b': _size(14_336, 70, 112),
        }

    def mlp_width(self, embed: int) -> int:
        """Four times the model's width."""
        return 4 * embed

    def check(self, architecture: Architecture) -> None:
        """Refuses grouped heads."""
        a = architecture
        if a.kv_heads != a.q_heads:
            raise ValueError(
                f'model.architecture.kv_heads={a.kv_heads} differs from q_heads={a.q_heads}: '
                'BLOOM has one key-value head for each query head. Leave kv_heads unset.'
            )

    def context_limit(self, architecture: Architecture) -> int | None:
        """None: ALiBi reads on."""
        return None

    def tensors(self, architecture: Architecture) -> list[TensorMap]:
        a = architecture
        d, n, h, f = a.embed, a.q_heads, a.head_dim, a.mlp
        ours, theirs = 'blocks.0.', self.prefix + 'h.{layer}.'
        rows = [table('embed.table', self.embedding, a.vocab_size, d, a.padded_vocab)]
        rows += norm('embed_norm', self.prefix + 'word_embeddings_layernorm', d)
        for our, their in (
            ('attention_norm', 'input_layernorm'),
            ('mlp_norm', 'post_attention_layernorm'),
        ):
            rows += norm(ours + our, theirs + their, d, a.layers)
        for our, their, outputs, inputs in (
            # The fused product has its rows interleaved [heads, 3, head_dim], and so it stays.
            ('attention.qkv', 'self_attention.query_key_value', (n, 3, h), (d,)),
            ('attention.out', 'self_attention.dense', (d,), (n, h)),
            ('mlp.up', 'mlp.dense_h_to_4h', (f,), (d,)),
            ('mlp.down', 'mlp.dense_4h_to_h', (d,), (f,)),
        ):
            rows += linear(ours + our, theirs + their, outputs, inputs, a.layers, True)
        rows += norm('final_norm', self.prefix + 'ln_f', d)
        if not a.tied:
            rows.append(table('head.table', HEAD, a.vocab_size, d, a.padded_vocab))
        return rows

    def from_config(self, config: PublishedConfig, special: dict[str, Any]) -> Architecture:
        embed = config.count('n_embed', 'hidden_size', default=64)
        heads = config.count('n_head', 'num_attention_heads', default=8)
        if embed % heads:
            raise ValueError(f'n_head={heads} does not divide hidden_size={embed}.')
        if config.get('n_inner', default=4 * embed) != 4 * embed:
            raise ValueError(
                f'n_inner={config.get("n_inner")}: the MLP of a BLOOM is four times as wide as '
                'the model.'
            )
        # slow_but_exact asks for another order of additions; transformers' code for it (5.23) also
        # leaves out two biases, which the model was trained with.
        return Architecture(
            family=self.name,
            vocab_size=config.count('vocab_size', default=250_880),
            embed=embed,
            layers=config.count('n_layer', 'num_hidden_layers', default=2),
            q_heads=heads,
            max_position=config.count('seq_length', default=2048),
            norm_eps=config.number('layer_norm_epsilon', 1e-5),
            tied=config.flag('tie_word_embeddings', True),
            post_norm_residual=config.flag('apply_residual_connection_post_layernorm', False),
            init_std=config.number('initializer_range', 0.02),
            **special,
        )

    def to_config(self, architecture: Architecture) -> dict[str, Any]:
        a = architecture
        if a.mlp != self.mlp_width(a.embed):
            raise ValueError(
                f'model.architecture.mlp={a.mlp}: a published BLOOM has no field for it, and its '
                f'MLP is {self.mlp_width(a.embed)} wide, four times the model. Train with that.'
            )
        return {
            'n_embed': a.embed,
            'n_layer': a.layers,
            'n_head': a.q_heads,
            'num_attention_heads': a.q_heads,
            'seq_length': a.max_position,
            'layer_norm_epsilon': a.norm_eps,
            'apply_residual_connection_post_layernorm': a.post_norm_residual,
            'hidden_dropout': 0.0,
            'attention_dropout': 0.0,
        }


def _size(embed: int, layers: int, heads: int) -> Architecture:
    special = {'bos_id': 1, 'eos_ids': (2,), 'pad_id': 3}
    return Architecture('bloom', 250_880, embed, layers, heads, tied=True, **special)
