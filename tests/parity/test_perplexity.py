"""Perplexity against transformers, counted in torch as the code of the GPTQ paper counts it."""

import numpy as np
import pytest

import belle_jax
from belle_jax.decoding.perplexity import perplexity

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity

LLAMA = {
    'vocab_size': 203,
    'hidden_size': 48,
    'intermediate_size': 88,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 40,
    'rms_norm_eps': 3e-4,
    'rope_parameters': {'rope_type': 'default', 'rope_theta': 700.0},
}
BLOOM = {
    'vocab_size': 131,
    'hidden_size': 56,
    'n_layer': 2,
    'n_head': 7,
    'tie_word_embeddings': True,
}
CONFIGS = {
    'llama': lambda: transformers.LlamaConfig(**LLAMA),
    'bloom': lambda: transformers.BloomConfig(**BLOOM),
}


def as_the_paper_counts(model, tokens, seq_len):
    """Source: IST-DASLab/gptq, llama.py, `llama_eval`."""
    windows, losses = tokens.shape[1] // seq_len, []
    for i in range(windows):
        batch = tokens[:, i * seq_len : (i + 1) * seq_len]
        logits = model(batch, use_cache=False).logits
        loss = torch.nn.CrossEntropyLoss()(logits[0, :-1], batch[0, 1:])
        losses.append(loss.float() * seq_len)
    return torch.exp(torch.stack(losses).sum() / (windows * seq_len)).item()


@pytest.mark.parametrize('family', CONFIGS)
@pytest.mark.parametrize('seq_len', [40, 17])
def test_a_text_is_as_perplexing_as_to_transformers(family, seq_len, tmp_path):
    torch.manual_seed(9)
    config = CONFIGS[family]()
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path)
        tokens = np.random.default_rng(10).integers(0, config.vocab_size, 333)
        expected = as_the_paper_counts(model, torch.tensor(tokens)[None], seq_len)
    found = perplexity(belle_jax.load_model(tmp_path), tokens, seq_len)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.value > 1.1 * config.vocab_size  # a model that is sure, and wrong
