"""Directories in the shapes that were published, and exports as transformers loads them."""

import json
import shutil

import numpy as np
import pytest

import belle_jax
from belle_jax.formats import huggingface
from belle_jax.runs import conversion
from belle_jax.weights import shards

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity


def llama(**settings):
    torch.manual_seed(12)
    config = transformers.LlamaConfig(
        **{
            'vocab_size': 151,
            'hidden_size': 32,
            'intermediate_size': 56,
            'num_hidden_layers': 2,
            'num_attention_heads': 4,
            'initializer_range': 0.2,
            'rms_norm_eps': 1e-5,
            'bos_token_id': 0,
            'eos_token_id': 1,
        }
        | settings
    )
    return transformers.LlamaForCausalLM(config).eval()


def bloom(**settings):
    torch.manual_seed(13)
    config = transformers.BloomConfig(
        **{
            'vocab_size': 130,
            'hidden_size': 48,
            'n_layer': 2,
            'n_head': 12,
            'initializer_range': 0.2,
            'pad_token_id': 3,
        }
        | settings
    )
    return transformers.BloomForCausalLM(config).eval()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


def check(path, model, tolerance=2e-5):
    tokens = np.random.default_rng(14).integers(0, 130, (2, 11))
    ours = np.asarray(belle_jax.load_model(path)(tokens))
    np.testing.assert_allclose(ours, logits_of(model, tokens), rtol=0, atol=tolerance)


def old_bloom_config(config):
    """As BigScience wrote it (shared/data/meta/bloom-560m)."""
    return {
        'architectures': ['BloomForCausalLM'],
        'model_type': 'bloom',
        'n_embed': config.hidden_size,
        'n_inner': None,
        'n_layer': config.n_layer,
        'num_attention_heads': config.n_head,
        'layer_norm_epsilon': 1e-5,
        'offset_alibi': 100,
        'seq_length': 2048,
        'skip_bias_add': True,
        'vocab_size': config.vocab_size,
        'bos_token_id': 1,
        'eos_token_id': 2,
        'pad_token_id': 3,
    }


def write_bin(path, state, config, parts=1):
    """A directory of `pytorch_model*.bin` as torch wrote them."""
    path.mkdir()
    (path / 'config.json').write_text(json.dumps(config))
    if parts == 1:
        torch.save(state, path / 'pytorch_model.bin')
        return
    weight_map = {}
    for i in range(parts):
        file = f'pytorch_model-{i + 1:05d}-of-{parts:05d}.bin'
        part = {k: v for j, (k, v) in enumerate(state.items()) if j % parts == i}
        torch.save(part, path / file)
        weight_map |= dict.fromkeys(part, file)
    index = {'metadata': {'total_size': 1}, 'weight_map': weight_map}
    (path / 'pytorch_model.bin.index.json').write_text(json.dumps(index))


@pytest.mark.parametrize('prefix', [True, False])
@pytest.mark.parametrize('parts', [1, 3])
@pytest.mark.parametrize('stored_head', [True, False])
def test_bloom_as_published(tmp_path, prefix, parts, stored_head):
    model = bloom()
    state = {k: v for k, v in model.state_dict().items() if stored_head or k != 'lm_head.weight'}
    if not prefix:
        state = {k.removeprefix('transformer.'): v for k, v in state.items()}
    write_bin(tmp_path / 'm', state, old_bloom_config(model.config), parts)
    check(tmp_path / 'm', model)


def test_llama_1_as_first_converted(tmp_path):
    """Sharded .bin in float16, one shard a layer, inv_freq buffers, LLaMAForCausalLM, pad id -1."""
    model = llama(max_position_embeddings=2048).half()
    state = dict(model.state_dict())
    for layer in range(2):
        state[f'model.layers.{layer}.self_attn.rotary_emb.inv_freq'] = torch.arange(4.0)
    config = {
        'architectures': ['LLaMAForCausalLM'],
        'model_type': 'llama',
        'bos_token_id': 0,
        'eos_token_id': 1,
        'pad_token_id': -1,
        'hidden_act': 'silu',
        'hidden_size': 32,
        'intermediate_size': 56,
        'initializer_range': 0.02,
        'max_sequence_length': 2048,
        'num_attention_heads': 4,
        'num_hidden_layers': 2,
        'rms_norm_eps': 1e-5,
        'torch_dtype': 'float16',
        'transformers_version': '4.27.0.dev0',
        'use_cache': True,
        'vocab_size': 151,
    }
    path = tmp_path / 'm'
    write_bin(path, state, config, parts=3)
    architecture = huggingface.read_architecture(path)
    assert architecture.pad_id is None
    assert (architecture.bos_id, architecture.eos_ids) == (0, (1,))
    # A new model: `half` has rounded this one's rotary frequencies, too.
    again = transformers.LlamaForCausalLM(model.config).eval()
    again.load_state_dict(model.float().state_dict())
    check(path, again)

    conversion.from_published(str(path), tmp_path / 'run')
    target = conversion.to_huggingface(tmp_path / 'run', tmp_path / 'out')
    back = shards.read(target)
    wanted = {k: v for k, v in state.items() if 'inv_freq' not in k}
    assert back.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert np.array_equal(back[name].array, tensor.half().numpy()), name
    assert json.loads((target / 'config.json').read_text()) == config


def test_a_tensor_that_no_published_file_has_is_an_error(tmp_path):
    model = llama()
    state = dict(model.state_dict()) | {'model.layers.0.self_attn.q_proj.lora_A': torch.ones(2)}
    write_bin(tmp_path / 'm', state, model.config.to_dict() | {'dtype': 'float32'})
    with pytest.raises(
        ValueError, match=r'q_proj.lora_A in .*pytorch_model.bin belongs to no part'
    ):
        belle_jax.load_model(tmp_path / 'm')


MODELS = {
    'llama': llama,
    'llama tied': lambda: llama(tie_word_embeddings=True, num_key_value_heads=1),
    'llama with rope of its own': lambda: llama(
        rope_parameters={'rope_type': 'dynamic', 'rope_theta': 123.0, 'factor': 2.0},
        head_dim=16,
        attention_bias=True,
    ),
    'bloom': bloom,
    'bloom untied': lambda: bloom(tie_word_embeddings=False),
}


@pytest.mark.parametrize('kind', ['safetensors', 'bin'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('name', MODELS)
def test_what_transformers_saves_comes_back_to_it_exactly(tmp_path, name, dtype, kind):
    model = MODELS[name]().to(getattr(torch, dtype))
    model.generation_config.temperature = 0.35
    model.generation_config.do_sample = True
    model.save_pretrained(tmp_path / 'm', max_shard_size='30KB')
    conversion.from_published(str(tmp_path / 'm'), tmp_path / 'run')
    target = conversion.to_huggingface(
        tmp_path / 'run', tmp_path / 'out', max_shard_size=30_000, kind=kind
    )
    back = transformers.AutoModelForCausalLM.from_pretrained(target, dtype='auto')
    assert type(back) is type(model)
    assert back.generation_config.to_diff_dict() == model.generation_config.to_diff_dict()
    ours, theirs = back.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype, key
        assert torch.equal(ours[key], tensor), key


def test_an_export_of_a_run_from_nothing_loads_with_its_tokenizer(tmp_path, shared):
    """No published configuration to copy: ours is written, and transformers agrees with it."""
    model = llama(vocab_size=6400, tie_word_embeddings=True, num_key_value_heads=2)
    model.save_pretrained(tmp_path / 'm')
    for file in (shared / 'data' / 'tokenizers' / 'zh_bpe_6400').iterdir():
        shutil.copyfile(file, tmp_path / 'm' / file.name)
    conversion.from_published(str(tmp_path / 'm'), tmp_path / 'run', template='belle')
    shutil.rmtree(tmp_path / 'run' / 'source')
    target = conversion.to_huggingface(tmp_path / 'run', tmp_path / 'out')
    back = transformers.AutoModelForCausalLM.from_pretrained(target).eval()
    tokens = np.random.default_rng(15).integers(0, 6400, (2, 9))
    assert np.array_equal(logits_of(back, tokens), logits_of(model, tokens))
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    text = tokenizer.apply_chat_template(
        [{'role': 'user', 'content': '你好'}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith('Human: 你好\n\nAssistant:')
