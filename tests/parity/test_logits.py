"""Logits against transformers, in float32, with no setting at its default."""

import numpy as np
import pytest

import belle_jax

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity

TOLERANCE = 2e-5
LLAMA = {
    'vocab_size': 203,
    'hidden_size': 48,
    'intermediate_size': 88,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 16,
    'hidden_act': 'silu',
    'max_position_embeddings': 40,
    'initializer_range': 0.03,
    'rms_norm_eps': 3e-4,
    'attention_bias': True,
    'mlp_bias': True,
    'tie_word_embeddings': False,
    'bos_token_id': 5,
    'eos_token_id': 6,
    'pad_token_id': 7,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 700.0},
}
LLAMA3 = {
    'rope_type': 'llama3',
    'rope_theta': 700.0,
    'factor': 5.0,
    'low_freq_factor': 1.5,
    'high_freq_factor': 3.5,
    'original_max_position_embeddings': 24,
}
LLAMAS = {
    'default rope': {},
    'linear rope': {'rope_parameters': {'rope_type': 'linear', 'rope_theta': 700.0, 'factor': 2.5}},
    'dynamic rope within the original length': {
        'rope_parameters': {'rope_type': 'dynamic', 'rope_theta': 700.0, 'factor': 2.5}
    },
    'dynamic rope beyond the original length': {
        'rope_parameters': {'rope_type': 'dynamic', 'rope_theta': 700.0, 'factor': 2.5},
        'max_position_embeddings': 12,
    },
    'llama3 rope': {'rope_parameters': LLAMA3},
    'as many key-value heads as query heads': {'num_key_value_heads': 4},
    'one key-value head': {'num_key_value_heads': 1},
    'tied': {'tie_word_embeddings': True},
    'attention bias alone': {'mlp_bias': False},
    'mlp bias alone': {'attention_bias': False},
    'head_dim larger than hidden / heads': {'head_dim': 30},
    'head_dim left out': {'head_dim': None},
    'gelu': {'hidden_act': 'gelu'},
    'gelu_new': {'hidden_act': 'gelu_new'},
    'gelu_pytorch_tanh': {'hidden_act': 'gelu_pytorch_tanh'},
    'relu': {'hidden_act': 'relu'},
    'a vocabulary that needs no padding': {'vocab_size': 256},
}
BLOOM = {
    'vocab_size': 131,
    'hidden_size': 56,
    'n_layer': 3,
    'n_head': 8,
    'layer_norm_epsilon': 3e-4,
    'initializer_range': 0.03,
    'bos_token_id': 5,
    'eos_token_id': 6,
    'pad_token_id': 7,
    'apply_residual_connection_post_layernorm': True,
    'hidden_dropout': 0.1,  # of training alone
    'attention_dropout': 0.2,
}
BLOOMS = {
    '8 heads': {},
    '14 heads': {'n_head': 14},
    '14 heads, the usual residual': {
        'n_head': 14,
        'apply_residual_connection_post_layernorm': False,
    },
    '8 heads, the usual residual': {'apply_residual_connection_post_layernorm': False},
    'untied': {'tie_word_embeddings': False},
}


def randomised(config):
    """A model in which no parameter is zero or one, with logits of order one."""
    torch.manual_seed(9)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation='eager', dtype=torch.float32
    )
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.15)
            else:
                p.copy_(0.1 * torch.randn_like(p) + (0.0 if name.endswith('bias') else 1.0))
    return model.eval()


def compare(config, path, length=23):
    model = randomised(config)
    model.save_pretrained(path)
    tokens = np.random.default_rng(10).integers(0, config.vocab_size, (3, length))
    with torch.no_grad():
        expected = model(torch.tensor(tokens), use_cache=False).logits.numpy()
    logits = np.asarray(belle_jax.load_model(path)(tokens))
    assert logits.shape == expected.shape
    assert logits.dtype == np.float32
    assert 0.3 < expected.std() < 10
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('case', LLAMAS)
def test_llama_says_what_transformers_says(case, tmp_path):
    compare(transformers.LlamaConfig(**LLAMA | LLAMAS[case]), tmp_path)


@pytest.mark.parametrize('case', BLOOMS)
def test_bloom_says_what_transformers_says(case, tmp_path):
    compare(transformers.BloomConfig(**BLOOM | BLOOMS[case]), tmp_path)


@pytest.mark.parametrize('family', ['llama', 'bloom'])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_files_are_loaded_as_transformers_loads_them(family, dtype, tmp_path):
    config = (
        transformers.LlamaConfig(**LLAMA)
        if family == 'llama'
        else transformers.BloomConfig(**BLOOM)
    )
    model = randomised(config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    state = model.float().state_dict()
    model = randomised(config)  # `to` has rounded the other's rotary frequencies, too
    model.load_state_dict(state)
    tokens = np.random.default_rng(11).integers(0, config.vocab_size, (2, 9))
    with torch.no_grad():
        expected = model(torch.tensor(tokens), use_cache=False).logits.numpy()
    logits = np.asarray(belle_jax.load_model(tmp_path)(tokens))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE)
