"""Hugging Face's configurations: which model they mean, and back.

Configurations have been written for four years by many programs; both the old keys and those of
transformers 5 are read and written. A setting that changes the arithmetic and is not known here is
refused by name.
"""

from typing import Any

from belle_jax.architecture import Architecture, Rope

ACTIVATIONS = {
    'silu': 'silu',
    'swish': 'silu',
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_fast': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'relu': 'relu',
}
ACTIVATION_NAMES = {
    'silu': 'silu',
    'gelu': 'gelu',
    'gelu_tanh': 'gelu_pytorch_tanh',
    'relu': 'relu',
}


# --- from their configuration ---------------------------------------------------------------------


def architecture_from_config(
    config: dict[str, Any], generation: dict[str, Any] | None = None
) -> Architecture:
    """The model that a `config.json` means.

    Args:
        config: Its values.
        generation: Those of `generation_config.json`, whose ends of sequence win, as in `generate`.
    """
    family = config.get('model_type')
    if family not in ('llama', 'bloom'):
        raise ValueError(f'model_type={family!r} is not supported: only llama and bloom are.')
    if config.get('quantization_config'):
        method = config['quantization_config'].get('quant_method', 'unnamed')
        raise ValueError(
            f'quantization_config ({method}): quantised weights are not read. Take the original '
            'model.'
        )
    eos = (generation or {}).get('eos_token_id', config.get('eos_token_id', 2))
    special = {
        'bos_id': _token(config.get('bos_token_id', 1)),
        'eos_ids': tuple(eos) if isinstance(eos, list) else (eos,) if eos is not None else (),
        'pad_id': _token(config.get('pad_token_id')),
    }
    return (_bloom if family == 'bloom' else _llama)(_Config(config), special)


class _Config:
    """Looks a setting up under its old and new names."""

    def __init__(self, values: dict[str, Any]):
        self.values = values

    def get(self, *names: str, default: Any = None) -> Any:
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        return default

    def count(self, *names: str, default: int | None = None) -> int:
        value = self.get(*names, default=default)
        if type(value) is not int or value < 1:
            raise ValueError(f'{names[0]}={value!r} must be a positive whole number.')
        return value


def _token(value: Any) -> int | None:
    """LLaMA-1's first conversions write pad_token_id -1 for none."""
    return value if isinstance(value, int) and value >= 0 else None


def _llama(config: _Config, special: dict[str, Any]) -> Architecture:
    embed = config.count('hidden_size', default=4096)
    heads = config.count('num_attention_heads', default=32)
    if not config.get('head_dim') and embed % heads:
        raise ValueError(f'num_attention_heads={heads} does not divide hidden_size={embed}.')
    act = config.get('hidden_act', default='silu')
    if act not in ACTIVATIONS:
        raise ValueError(f'hidden_act={act!r} is not known: {", ".join(ACTIVATIONS)} are.')
    # LLaMA-1's first conversions: max_sequence_length.
    positions = config.count('max_position_embeddings', 'max_sequence_length', default=2048)
    return Architecture(
        family='llama',
        vocab_size=config.count('vocab_size', default=32_000),
        embed=embed,
        layers=config.count('num_hidden_layers', default=32),
        q_heads=heads,
        kv_heads=config.count('num_key_value_heads', default=heads),
        head_dim=config.count('head_dim', default=embed // heads),
        mlp=config.count('intermediate_size', default=11_008),
        max_position=positions,
        norm_eps=float(config.get('rms_norm_eps', default=1e-6)),
        tied=bool(config.get('tie_word_embeddings', default=False)),
        attention_bias=bool(config.get('attention_bias', default=False)),
        mlp_bias=bool(config.get('mlp_bias', default=False)),
        activation=ACTIVATIONS[act],
        rope=_rope(config, positions),
        init_std=float(config.get('initializer_range', default=0.02)),
        **special,
    )


def _rope(config: _Config, positions: int) -> Rope:
    # In transformers, too, the old key wins where both are there.
    values = dict(config.get('rope_scaling', 'rope_parameters', default={}))
    kind = values.get('rope_type', values.get('type', 'default'))
    theta = float(values.get('rope_theta', config.get('rope_theta', default=10_000.0)))
    part = values.get('partial_rotary_factor', config.get('partial_rotary_factor', default=1.0))
    if part != 1:
        raise ValueError(f'partial_rotary_factor={part}: only whole heads are rotated here.')
    if kind == 'default':
        return Rope(theta=theta)
    if kind not in ('linear', 'dynamic', 'llama3'):
        raise ValueError(f'rope_type={kind!r} is not known: default, linear, dynamic, llama3 are.')
    needed = ('factor', 'low_freq_factor', 'high_freq_factor')
    for name in needed if kind == 'llama3' else needed[:1]:
        if not isinstance(values.get(name), int | float):
            raise ValueError(f'rope_scaling.{name}={values.get(name)!r}: {kind} needs a number.')
    if kind != 'llama3':
        return Rope(kind=kind, theta=theta, factor=float(values['factor']))
    original = config.get('original_max_position_embeddings') or values.get(
        'original_max_position_embeddings', positions
    )
    return Rope(
        kind, theta, *(float(values[n]) for n in needed), original_max_position=int(original)
    )


def _bloom(config: _Config, special: dict[str, Any]) -> Architecture:
    embed = config.count('n_embed', 'hidden_size', default=64)
    heads = config.count('n_head', 'num_attention_heads', default=8)
    if embed % heads:
        raise ValueError(f'n_head={heads} does not divide hidden_size={embed}.')
    if config.get('n_inner', default=4 * embed) != 4 * embed:
        raise ValueError(
            f'n_inner={config.get("n_inner")}: the MLP of a BLOOM is four times as wide as the '
            'model.'
        )
    # slow_but_exact asks for another order of additions; transformers' code for it (5.23) also
    # leaves out two biases, which is no part of the model that was trained.
    return Architecture(
        family='bloom',
        vocab_size=config.count('vocab_size', default=250_880),
        embed=embed,
        layers=config.count('n_layer', 'num_hidden_layers', default=2),
        q_heads=heads,
        max_position=config.count('seq_length', default=2048),
        norm_eps=float(config.get('layer_norm_epsilon', default=1e-5)),
        tied=bool(config.get('tie_word_embeddings', default=True)),
        post_norm_residual=bool(
            config.get('apply_residual_connection_post_layernorm', default=False)
        ),
        init_std=float(config.get('initializer_range', default=0.02)),
        **special,
    )


# --- to their configuration -----------------------------------------------------------------------


def architecture_to_hf_config(architecture: Architecture, dtype: str) -> dict[str, Any]:
    """A `config.json` that transformers 4 and 5 both read.

    Args:
        architecture: The model.
        dtype: Of the weights beside it.
    """
    a = architecture
    config: dict[str, Any] = {
        'architectures': ['BloomForCausalLM' if a.family == 'bloom' else 'LlamaForCausalLM'],
        'model_type': a.family,
        'vocab_size': a.vocab_size,
        'hidden_size': a.embed,
        'initializer_range': a.init_std,
        'tie_word_embeddings': a.tied,
        'use_cache': True,
        'bos_token_id': a.bos_id,
        'eos_token_id': _one_or_list(a.eos_ids),
        'pad_token_id': a.pad_id,
        'dtype': dtype,
        'torch_dtype': dtype,
    }
    return config | (_bloom_config(a) if a.family == 'bloom' else _llama_config(a))


def generation_config(architecture: Architecture) -> dict[str, Any]:
    """A `generation_config.json` for a model that came without one."""
    ids = {
        'bos_token_id': architecture.bos_id,
        'eos_token_id': _one_or_list(architecture.eos_ids),
        'pad_token_id': architecture.pad_id,
    }
    return {'_from_model_config': True} | {k: v for k, v in ids.items() if v is not None}


def _one_or_list(ids: tuple[int, ...]) -> int | list[int] | None:
    return list(ids) if len(ids) > 1 else ids[0] if ids else None


def _llama_config(a: Architecture) -> dict[str, Any]:
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
        'hidden_act': ACTIVATION_NAMES[a.activation],
        'max_position_embeddings': a.max_position,
        'rms_norm_eps': a.norm_eps,
        'attention_bias': a.attention_bias,
        'mlp_bias': a.mlp_bias,
        'rope_theta': a.rope.theta,
        # transformers before 4.43 knows `type` alone.
        'rope_scaling': None if a.rope.kind == 'default' else rope | {'type': a.rope.kind},
        'rope_parameters': rope | {'rope_theta': a.rope.theta},
    }


def _bloom_config(a: Architecture) -> dict[str, Any]:
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
