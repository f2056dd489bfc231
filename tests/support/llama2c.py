"""llama2.c's legacy files as Hugging Face directories: a really trained model for tests."""

import shutil
from pathlib import Path

import numpy as np


def to_huggingface(binary: Path, tokenizer_model: Path, target: Path) -> None:
    """Writes a Hugging Face directory from a llama2.c legacy file.

    The file is seven int32 (dim, hidden, layers, heads, key-value heads, vocabulary, context; a
    negative vocabulary means an untied classifier), then float32 arrays. Rotary pairs are
    interleaved as in Meta's files, so rows of wq and wk are put half a head apart.

    Args:
        binary: `stories260K.bin` or its like.
        tokenizer_model: SentencePiece.
        target: Made.
    Source: karpathy/llama2.c, run.c (memory_map_weights).
    """
    import torch
    import transformers

    raw = np.fromfile(binary, np.float32)
    dim, hidden, layers, heads, kv_heads, vocab, context = np.fromfile(binary, np.int32, 7).tolist()
    assert vocab > 0, 'an untied classifier is not read here'
    kv_dim, at = dim // heads * kv_heads, 7

    def take(*shape):
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return torch.from_numpy(raw[at - size : at].reshape(shape).copy())

    def half_a_head_apart(w, count):
        return w.reshape(count, -1, 2, dim).swapaxes(1, 2).reshape(-1, dim)

    embedding, attention_norm = take(vocab, dim), take(layers, dim)
    wq, wk, wv = take(layers, dim, dim), take(layers, kv_dim, dim), take(layers, kv_dim, dim)
    wo, mlp_norm = take(layers, dim, dim), take(layers, dim)
    w1, w2, w3 = take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim)
    weights = {'model.embed_tokens.weight': embedding, 'model.norm.weight': take(dim)}
    for i in range(layers):
        weights |= {
            f'model.layers.{i}.{name}.weight': value
            for name, value in {
                'input_layernorm': attention_norm[i],
                'self_attn.q_proj': half_a_head_apart(wq[i], heads),
                'self_attn.k_proj': half_a_head_apart(wk[i], kv_heads),
                'self_attn.v_proj': wv[i],
                'self_attn.o_proj': wo[i],
                'post_attention_layernorm': mlp_norm[i],
                'mlp.gate_proj': w1[i],
                'mlp.down_proj': w2[i],
                'mlp.up_proj': w3[i],
            }.items()
        }
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and missing == ['lm_head.weight'], (missing, unexpected)
    model.save_pretrained(target)
    shutil.copyfile(tokenizer_model, target / 'tokenizer.model')
