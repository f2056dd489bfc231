"""Configurations of published models, old and new, and directories that are not whole."""

import json
import shutil

import numpy as np
import pytest

import belle_jax
from belle_jax import families
from belle_jax.families import PRESETS, Architecture, Rope
from belle_jax.formats import huggingface
from belle_jax.weights import safetensors, shards
from belle_jax.weights.tensors import planned

OLD = {
    'model_type': 'llama',
    'architectures': ['LLaMAForCausalLM'],
    'vocab_size': 203,
    'hidden_size': 48,
    'intermediate_size': 80,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'max_sequence_length': 512,
    'rms_norm_eps': 1e-5,
    'pad_token_id': -1,
    'bos_token_id': 0,
    'eos_token_id': 1,
    'rope_theta': 5e5,
    'torch_dtype': 'float16',
}
NEW = {
    'model_type': 'llama',
    'vocab_size': 203,
    'hidden_size': 48,
    'intermediate_size': 80,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'num_key_value_heads': 4,
    'head_dim': 12,
    'max_position_embeddings': 512,
    'rms_norm_eps': 1e-5,
    'pad_token_id': None,
    'bos_token_id': 0,
    'eos_token_id': 1,
    'rope_parameters': {'rope_theta': 5e5, 'rope_type': 'default'},
    'dtype': 'float16',
}


def read(config, generation=None):
    return huggingface.architecture_from_config(config, generation)


def test_old_and_new_keys_mean_the_same_model():
    expected = Architecture(
        vocab_size=203,
        embed=48,
        layers=3,
        q_heads=4,
        mlp=80,
        max_position=512,
        rope=Rope(theta=5e5),
        bos_id=0,
        eos_ids=(1,),
    )
    assert read(OLD) == expected
    assert read(NEW) == expected


def test_missing_keys_take_the_defaults_of_the_family():
    assert read({'model_type': 'llama'}) == PRESETS['llama_7b']
    tiny = read({'model_type': 'bloom'})
    assert (tiny.embed, tiny.layers, tiny.q_heads, tiny.vocab_size) == (64, 2, 8, 250_880)
    assert tiny.tied


def test_bloom_560m_as_published_is_its_preset(shared):
    path = shared / 'data' / 'meta' / 'bloom-560m'
    assert huggingface.read_architecture(path) == PRESETS['bloom_560m']
    config = json.loads((path / 'config.json').read_text())
    config['hidden_size'], config['n_head'] = config.pop('n_embed'), 16
    config['num_hidden_layers'] = config.pop('n_layer')
    assert read(config) == PRESETS['bloom_560m']


LLAMA3 = {
    'factor': 8.0,
    'low_freq_factor': 1.5,
    'high_freq_factor': 3.0,
    'original_max_position_embeddings': 256,
}


@pytest.mark.parametrize(
    ('keys', 'rope'),
    [
        ({'rope_scaling': {'type': 'linear', 'factor': 2}}, Rope('linear', 5e5, 2.0)),
        ({'rope_scaling': {'rope_type': 'dynamic', 'factor': 3.0}}, Rope('dynamic', 5e5, 3.0)),
        ({'rope_scaling': {'rope_type': 'llama3'} | LLAMA3}, Rope('llama3', 5e5, 8, 1.5, 3, 256)),
        (
            {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 7.0} | LLAMA3},
            Rope('llama3', 7.0, 8, 1.5, 3, 256),
        ),
        ({'rope_scaling': None, 'rope_parameters': {'rope_theta': 7}}, Rope(theta=7.0)),
        ({'rope_scaling': {'type': 'default'}}, Rope(theta=5e5)),
    ],
)
def test_every_way_to_write_rope_is_read(keys, rope):
    assert read(OLD | keys).rope == rope


def test_ends_of_sequence_are_those_that_generate_would_use():
    assert read(NEW | {'eos_token_id': [5, 6]}).eos_ids == (5, 6)
    assert read(NEW, {'eos_token_id': [7, 8, 9]}).eos_ids == (7, 8, 9)
    assert read(NEW, {'eos_token_id': 3}).eos_ids == (3,)
    assert read(NEW | {'eos_token_id': None}).eos_ids == ()


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({}, 'model_type=None'),
        (NEW | {'model_type': 'mamba'}, "model_type='mamba' is not supported"),
        (NEW | {'quantization_config': {'quant_method': 'gptq'}}, 'quantization_config .gptq.'),
        (NEW | {'hidden_act': 'xielu'}, "hidden_act='xielu'"),
        (NEW | {'rope_scaling': {'type': 'yarn', 'factor': 2}}, "rope_type='yarn'"),
        (NEW | {'rope_scaling': {'type': 'linear'}}, 'rope_scaling.factor=None'),
        (NEW | {'partial_rotary_factor': 0.5}, 'partial_rotary_factor=0.5'),
        (NEW | {'hidden_size': 'big'}, "hidden_size='big'"),
        (NEW | {'hidden_size': 50, 'head_dim': None}, 'num_attention_heads=4 does not divide'),
        (NEW | {'num_key_value_heads': 3}, 'kv_heads=3 does not divide'),
        ({'model_type': 'bloom', 'n_inner': 100}, 'n_inner=100'),
        (NEW | {'quantization_config': 'gptq'}, 'quantization_config .gptq.'),
        (NEW | {'eos_token_id': '2'}, "eos_token_id='2' must be the number of a token"),
        (NEW | {'eos_token_id': [[2]]}, r'eos_token_id=\[2\] must be the number'),
        (NEW | {'bos_token_id': 1.5}, 'bos_token_id=1.5 must be the number'),
        (NEW | {'hidden_act': ['silu']}, r"hidden_act=\['silu'\] is not known"),
        (NEW | {'rope_scaling': [1, 2]}, r'rope_scaling=\[1, 2\] must be an object'),
        (NEW | {'rope_parameters': 'x'}, "rope_parameters='x' must be an object"),
        (NEW | {'rms_norm_eps': '1e-6'}, "rms_norm_eps='1e-6' must be a number"),
        (NEW | {'tie_word_embeddings': 'no'}, "tie_word_embeddings='no' must be true or false"),
        (NEW | {'rope_parameters': {'rope_theta': []}}, r'rope_theta=\[\] must be a number'),
        ({'model_type': 'bloom', 'n_head': 7}, 'n_head=7 does not divide'),
    ],
)
def test_what_is_not_built_here_is_refused_by_name(tmp_path, config, message):
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        huggingface.read_architecture(tmp_path)
    assert str(tmp_path / 'config.json') in str(error.value)


def test_an_empty_scaling_leaves_the_parameters_of_rope_alone():
    linear = {'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 7e3}
    both = NEW | {'rope_scaling': {}, 'rope_parameters': linear}
    assert read(both).rope == Rope('linear', 7e3, 2.0)


def test_a_bloom_that_no_configuration_can_say_is_refused():
    wide = Architecture(family='bloom', vocab_size=64, embed=16, layers=1, q_heads=2, mlp=48)
    with pytest.raises(ValueError, match=r'mlp=48: a published BLOOM has no field for it'):
        huggingface.architecture_to_hf_config(wide, 'float32')


def test_a_quantised_model_as_published_is_refused(shared):
    with pytest.raises(ValueError, match='a quantised model is run as it is'):
        huggingface.read_architecture(shared / 'data' / 'meta' / 'gptq-30b')


EVERY = [
    Architecture(
        vocab_size=203,
        embed=48,
        layers=3,
        q_heads=4,
        kv_heads=2,
        head_dim=16,
        mlp=80,
        tied=True,
        attention_bias=True,
        mlp_bias=True,
        activation='gelu_tanh',
        rope=Rope('llama3', 7e4, 4.0, 1.5, 3.0, 128),
        max_position=640,
        init_std=0.03,
        eos_ids=(5, 6),
        pad_id=3,
    ),
    Architecture(vocab_size=203, embed=48, rope=Rope('linear', 5e3, 2.0), bos_id=1, eos_ids=(2,)),
    Architecture(vocab_size=203, embed=48, rope=Rope('dynamic', 5e3, 2.0), eos_ids=()),
    Architecture(
        family='bloom',
        vocab_size=131,
        embed=42,
        q_heads=14,
        post_norm_residual=True,
        norm_eps=1e-4,
        tied=True,
        bos_id=1,
        eos_ids=(2,),
    ),
]


@pytest.mark.parametrize('architecture', [*EVERY, *PRESETS.values()])
def test_a_written_configuration_means_the_same_model_here_and_to_transformers(
    architecture, tmp_path
):
    transformers = pytest.importorskip('transformers')
    config = huggingface.architecture_to_hf_config(architecture, 'bfloat16')
    if not architecture.eos_ids:
        config['eos_token_id'] = []
    assert read(config) == architecture
    old = {k: v for k, v in config.items() if k not in ('rope_parameters', 'dtype')}
    assert read(old) == architecture
    (tmp_path / 'config.json').write_text(json.dumps(config))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path).to_dict()
    assert str(theirs['dtype']).endswith('bfloat16')
    assert read(theirs) == architecture


def whole_directory(path, count=1):
    """A small LLaMA in `count` shards."""
    path.mkdir()
    architecture = Architecture(vocab_size=64, embed=16, layers=1, q_heads=2, mlp=32)
    config = huggingface.architecture_to_hf_config(architecture, 'float32')
    (path / 'config.json').write_text(json.dumps(config))
    tensors = [
        planned(name, np.full(e.their_shape, 0.1, np.float32))
        for e in families.tensor_maps(architecture)
        for name in e.their_names
    ]
    total = sum(t.size for t in tensors)
    shards.write(path, tensors, 'safetensors', total if count == 1 else total // count)
    return tensors


def test_directories_that_are_not_whole_are_named_with_what_is_missing(tmp_path):
    path = tmp_path / 'm'
    whole_directory(path, 3)
    files = sorted(path.glob('*.safetensors'))
    assert len(files) >= 3
    index = path / 'model.safetensors.index.json'

    def message():
        with pytest.raises(ValueError) as error:
            belle_jax.load_model(path)
        return str(error.value)

    hidden = tmp_path / 'hidden'
    files[1].rename(hidden)
    assert f'{files[1]} is missing' in message()
    shutil.copy(files[0], files[1])
    assert 'is also in' in message()
    hidden.rename(files[1])
    text = index.read_text()
    index.write_text(text.replace('"model.norm.weight": "', '"model.norm.weight": "../'))
    assert 'no file beside it' in message()
    index.write_text('{"weight_map": {"a": 1}}')
    assert f'{index} names a shard' in message()
    index.write_text('[')
    assert f'{index} is not readable JSON' in message()
    index.unlink()
    assert f'{path} holds no weights' in message()
    (path / 'config.json').unlink()
    assert f'{path / "config.json"} is missing' in message()


def test_a_wrong_shape_names_tensor_file_and_both_shapes(tmp_path):
    path = tmp_path / 'm'
    tensors = whole_directory(path)
    wrong = [
        planned(t.name, np.zeros((3,), np.float32)) if 'norm' in t.name else t for t in tensors
    ]
    safetensors.write(path / 'model.safetensors', wrong)
    with pytest.raises(
        ValueError, match=r'layernorm.weight in .*model.safetensors has shape \[3\]'
    ):
        belle_jax.load_model(path)


def test_a_name_that_leads_nowhere_gets_one_sentence():
    with pytest.raises(ValueError, match='nowhere is neither a directory here nor a hub name'):
        huggingface.resolve('nowhere')
    name = 'BelleGroup/BELLE-7B-2M'
    with pytest.raises(ValueError, match=f'{name} is not a directory here') as error:
        huggingface.resolve(name)  # tests run offline
    assert '\n' not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_a_sentence(monkeypatch):
    """What its HTTP library raises is of no kind that the system has."""

    class Unreachable(Exception):
        pass

    def refused(*_, **__):
        raise Unreachable('name or service not known')

    monkeypatch.setattr('huggingface_hub.HfApi.list_repo_files', refused)
    monkeypatch.setattr('huggingface_hub.snapshot_download', refused)
    with pytest.raises(ValueError, match=r'^models/mine is not a directory.*\(name or service'):
        huggingface.resolve('models/mine')


def test_a_hub_name_is_taken_from_the_cache_when_offline(tmp_path, monkeypatch):
    commit = 'a' * 40
    repo = tmp_path / 'models--someone--model'
    snapshot = repo / 'snapshots' / commit
    snapshot.parent.mkdir(parents=True)
    whole_directory(snapshot)
    (repo / 'refs').mkdir()
    (repo / 'refs' / 'main').write_text(commit)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    assert huggingface.resolve('someone/model') == snapshot


@pytest.mark.parametrize(
    ('text', 'size'),
    [('5GB', 5 * 10**9), ('500MB', 5 * 10**8), ('2GiB', 2**31), ('1.5kb', 1500), ('7', 7)],
)
def test_sizes_are_parsed(text, size):
    assert shards.parse_size(text) == size


@pytest.mark.parametrize('text', ['', 'GB', '-1GB', '0', '5 apples', '1TB'])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match='max_shard_size'):
        shards.parse_size(text)
