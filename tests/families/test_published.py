"""What published tensors are to us: layouts against plain transposes, slices against the whole."""

import ml_dtypes
import numpy as np
import pytest

from belle_jax import families, models
from belle_jax.families import PRESETS
from belle_jax.weights.tensors import DTYPES
from published import BLOOM, BOTH, LLAMA, RNG, published


def whole(entry, stored, dtype='float32'):
    tensors = [stored[name].array for name in entry.their_names]
    index = tuple(slice(None) for _ in entry.our_shape)
    return entry.take(tensors, index, DTYPES[dtype])


def entry_of(architecture, name):
    return next(e for e in families.tensor_maps(architecture) if e.ours == name)


@pytest.mark.parametrize('name', ['llama2_70b', 'llama3_8b', 'llama_7b', 'bloom_560m', 'bloom_7b1'])
def test_the_table_has_exactly_the_parameters_of_the_model(name):
    ours = {e.ours: e.our_shape for e in families.tensor_maps(PRESETS[name])}
    assert ours == {n: s.shape for n, s in models.specs(models.Blueprint(PRESETS[name])).items()}


@BOTH
def test_the_table_has_exactly_the_parameters_of_a_model_with_every_option(architecture):
    ours = {e.ours: e.our_shape for e in families.tensor_maps(architecture)}
    assert ours == {n: s.shape for n, s in models.specs(models.Blueprint(architecture)).items()}


def test_llama_layouts_are_these_transposes():
    stored = published(LLAMA)

    def their(layer, name):
        return stored[f'model.layers.{layer}.{name}'].array

    for name, heads in (('query', 6), ('key', 2), ('value', 2)):
        kernel = whole(entry_of(LLAMA, f'blocks.0.attention.{name}.kernel'), stored)
        bias = whole(entry_of(LLAMA, f'blocks.0.attention.{name}.bias'), stored)
        for layer in range(3):
            w = their(layer, f'self_attn.{name[0]}_proj.weight')
            b = their(layer, f'self_attn.{name[0]}_proj.bias')
            assert np.array_equal(kernel[layer], w.T.reshape(24, heads, 8))
            assert np.array_equal(bias[layer], b.reshape(heads, 8))
    out = whole(entry_of(LLAMA, 'blocks.0.attention.out.kernel'), stored)
    down = whole(entry_of(LLAMA, 'blocks.0.mlp.down.kernel'), stored)
    assert np.array_equal(out[2], their(2, 'self_attn.o_proj.weight').T.reshape(6, 8, 24))
    assert np.array_equal(down[1], their(1, 'mlp.down_proj.weight').T)


def test_bloom_keeps_its_interleaved_rows():
    stored = published(BLOOM)
    kernel = whole(entry_of(BLOOM, 'blocks.0.attention.qkv.kernel'), stored)
    theirs = stored['transformer.h.1.self_attention.query_key_value.weight'].array
    for head in range(14):
        for part in range(3):  # transformers: fused.view(..., heads, 3, head_dim)
            rows = theirs[(head * 3 + part) * 3 : (head * 3 + part + 1) * 3]
            assert np.array_equal(kernel[1, :, head, part], rows.T)


@BOTH
def test_padding_rows_are_zero_and_the_others_are_theirs(architecture):
    stored = published(architecture)
    entry = families.tensor_maps(architecture)[0]
    table, rows = whole(entry, stored), architecture.vocab_size
    assert table.shape[0] == architecture.padded_vocab > rows
    assert np.array_equal(table[:rows], stored[entry.theirs].array)
    assert not table[rows:].any()


@BOTH
def test_any_slice_is_that_slice_of_the_whole(architecture):
    stored = published(architecture)
    for entry in families.tensor_maps(architecture):
        tensors = [stored[name].array for name in entry.their_names]
        full = whole(entry, stored)
        for _ in range(4):
            bounds = [sorted(RNG.integers(0, n + 1, 2)) for n in entry.our_shape]
            index = tuple(slice(int(a), int(b)) for a, b in bounds)
            part = entry.take(tensors, index, DTYPES['float32'])
            assert np.array_equal(part, full[index]), entry.ours


@BOTH
@pytest.mark.parametrize('dtype', DTYPES)
def test_blocks_of_rows_give_every_tensor_back_exactly(architecture, dtype):
    stored = published(architecture, dtype)
    for entry in families.tensor_maps(architecture):
        ours = whole(entry, stored, dtype)
        for layer, name in enumerate(entry.their_names):
            blocks = [
                entry.give(lambda index, ours=ours: ours[index], layer, start, start + 1)
                for start in range(entry.fold[0])
            ]
            back = np.concatenate(blocks)
            assert back.dtype == DTYPES[dtype]
            assert back.shape == entry.their_shape
            assert back.tobytes() == stored[name].array.tobytes(), name


def test_reading_as_another_dtype_rounds_like_a_cast():
    stored = published(LLAMA)
    entry = entry_of(LLAMA, 'blocks.0.mlp.up.kernel')
    rounded = whole(entry, stored, 'bfloat16')
    assert np.array_equal(rounded, whole(entry, stored).astype(ml_dtypes.bfloat16))
