"""Any layout to any other: what is carried and made, what cannot be sliced, which names match."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from belle_jax import families
from belle_jax.families import Architecture
from belle_jax.formats import huggingface
from belle_jax.formats.protocol import PublishedModel, match
from belle_jax.weights import shards
from belle_jax.weights.tensors import Stored, planned
from published import BLOOM, BOTH, LLAMA, published

ARCHITECTURE = Architecture(vocab_size=64, embed=16, layers=2, q_heads=2, mlp=32, bos_id=1)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        name: rng.normal(size=m.their_shape).astype(np.float32)
        for m in families.tensor_maps(ARCHITECTURE)
        for name in m.their_names
    }


def in_order(directory, values, **fields) -> PublishedModel:
    """A model of a layout that gives its tensors from beginning to end alone."""

    def carry(target):
        assert json.loads((target / 'config.json').read_text())['model_type'] == 'llama'
        (target / 'LICENSE').write_text('free')
        return ['Read the licence.']

    tensors = {name: planned(name, array) for name, array in values.items()}
    return PublishedModel(directory, ARCHITECTURE, tensors, 'float32', carry, **fields)


def test_a_layout_in_order_is_written_with_its_files_and_says_its_notes(tmp_path, capsys):
    values = arrays()
    model = in_order(tmp_path, values, notes=['Context: a guess.'])
    target = huggingface.write(model, tmp_path / 'out', 'bfloat16', max_shard_size=3000)
    assert capsys.readouterr().out == 'Context: a guess.\nRead the licence.\n'
    stored = shards.read(target)
    assert list(stored) == list(values)
    for name, array in values.items():
        assert stored[name].array.tobytes() == array.astype(ml_dtypes.bfloat16).tobytes()
    config = json.loads((target / 'config.json').read_text())
    assert config == huggingface.architecture_to_hf_config(ARCHITECTURE, 'bfloat16')
    generation = json.loads((target / 'generation_config.json').read_text())
    assert generation == {'_from_model_config': True, 'bos_token_id': 1}
    assert (target / 'LICENSE').read_text() == 'free'


def test_a_directory_written_again_keeps_its_configuration_and_small_files(tmp_path):
    source = huggingface.write(in_order(tmp_path, arrays()), tmp_path / 'a')
    config = json.loads((source / 'config.json').read_text()) | {'someone': ['knows', 'this']}
    del config['torch_dtype']
    (source / 'config.json').write_text(json.dumps(config))
    (source / 'generation_config.json').write_text('{"temperature": 0.35}')
    (source / 'README.md').write_text('A card.')
    (source / 'tokenizer_config.json').write_text('{"model_max_length": 7}')
    target = huggingface.write(huggingface.open(source), tmp_path / 'b', 'float16', kind='bin')
    assert json.loads((target / 'config.json').read_text()) == config | {'dtype': 'float16'}
    for name in ('generation_config.json', 'README.md', 'tokenizer_config.json', 'LICENSE'):
        assert (target / name).read_text() == (source / name).read_text()
    assert {t.array.dtype.name for t in shards.read(target).values()} == {'float16'}


def test_slices_are_read_from_views_and_refused_where_tensors_come_in_order(tmp_path):
    values = arrays()
    model = in_order(tmp_path, values)
    opened = huggingface.open(huggingface.write(model, tmp_path / 'a'))
    name = 'model.layers.1.mlp.up_proj.weight'
    part = (slice(1, 2), slice(3, 9), slice(0, 32, None))
    got = opened.read('blocks.0.mlp.up.kernel', part, np.dtype(np.float32))
    assert np.array_equal(got[0], values[name].T[3:9])
    with pytest.raises(ValueError, match=f'{name} of .* only be read from its beginning'):
        model.array(name)


def test_a_dtype_or_kind_of_file_that_is_not_written_is_refused(tmp_path):
    model = in_order(tmp_path, arrays())
    with pytest.raises(ValueError, match=r"--dtype='int8' .*float16"):
        huggingface.write(model, tmp_path / 'out', 'int8')
    with pytest.raises(ValueError, match=r"--format='npz': .*safetensors, bin"):
        huggingface.write(model, tmp_path / 'out', kind='npz')
    assert not (tmp_path / 'out').exists()


# --- names ----------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize('prefixed', [True, False])
def test_names_match_with_and_without_the_prefix(architecture, prefixed):
    stored = published(architecture)
    prefix = families.of(architecture).prefix
    given = stored if prefixed else {n.removeprefix(prefix): t for n, t in stored.items()}
    found = match(architecture, given)
    assert found.keys() == stored.keys()
    assert all(found[n].array is stored[n].array for n in found)


@pytest.mark.parametrize('wrapper', ['module.', '_orig_mod.', 'module._orig_mod.'])
def test_names_that_torch_wraps_are_unwrapped(wrapper):
    tensors = published(LLAMA)
    found = match(LLAMA, {wrapper + name: tensor for name, tensor in tensors.items()})
    assert all(found[name].array is tensor.array for name, tensor in tensors.items())


def stored(name, shape, dtype='float32', fill=0.5):
    return Stored(name, Path('dir/x.bin'), np.full(shape, fill, dtype))


@pytest.mark.parametrize(
    ('architecture', 'name'),
    [
        (LLAMA, 'model.layers.2.self_attn.rotary_emb.inv_freq'),
        (LLAMA, 'layers.0.self_attn.rotary_emb.inv_freq'),
        (LLAMA, 'model.rotary_emb.inv_freq'),
        (BLOOM, 'transformer.h.0.attn.masked_bias'),
        (BLOOM, 'h.1.self_attention.bias'),
    ],
)
def test_known_buffers_are_ignored_by_name(architecture, name):
    tensors = published(architecture)
    found = match(architecture, tensors | {name: stored(name, (4,))})
    assert found.keys() == tensors.keys()


@pytest.mark.parametrize(
    ('architecture', 'name'),
    [
        (LLAMA, 'model.layers.3.mlp.up_proj.weight'),
        (LLAMA, 'model.layers.0.self_attn.q_norm.weight'),
        (LLAMA, 'layers.0.mlp.up_proj.weight'),  # a second time, without the prefix
        (LLAMA, 'model.rotary_emb.other'),
        (BLOOM, 'h.0.mlp.dense_h_to_4h.lora_A'),
        (BLOOM, 'transformer.h.1.self_attention.rotary_emb.inv_freq'),
    ],
)
def test_a_tensor_left_over_is_an_error_that_names_it_and_its_file(architecture, name):
    tensors = published(architecture)
    with pytest.raises(ValueError, match='belongs to no part') as error:
        match(architecture, tensors | {name: stored(name, (4,))})
    assert f'{name} in dir/x.bin' in str(error.value)


def test_missing_misshapen_and_quantised_tensors_are_named():
    name = 'model.layers.1.mlp.down_proj.bias'
    tensors = published(LLAMA)
    del tensors[name]
    with pytest.raises(ValueError, match=f'{name} is missing from x.bin: '):
        match(LLAMA, tensors)
    with pytest.raises(ValueError, match=rf'{name} in dir/x.bin has shape \[25\].*\[24\]'):
        match(LLAMA, tensors | {name: stored(name, (25,))})
    with pytest.raises(ValueError, match=f'{name} in dir/x.bin holds int32 numbers'):
        match(LLAMA, tensors | {name: stored(name, (24,), 'int32')})


def test_a_stored_head_of_a_tied_model_must_be_its_table():
    tensors = published(BLOOM)
    table = tensors['transformer.word_embeddings.weight'].array
    copy = Stored('lm_head.weight', Path('x.bin'), table.copy())
    assert 'lm_head.weight' not in match(BLOOM, tensors | {'lm_head.weight': copy})
    copy.array[130, 41] += 1
    with pytest.raises(ValueError, match='lm_head.weight in x.bin differs .*tie_word_embeddings'):
        match(BLOOM, tensors | {'lm_head.weight': copy})
