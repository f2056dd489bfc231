"""Any layout to any other: what is carried, what is made, and what cannot be sliced."""

import json

import ml_dtypes
import numpy as np
import pytest

from belle_jax import families
from belle_jax.families import Architecture
from belle_jax.formats import huggingface
from belle_jax.formats.protocol import PublishedModel
from belle_jax.weights import shards
from belle_jax.weights.tensors import planned

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
