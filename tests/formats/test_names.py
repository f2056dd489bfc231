"""The name tables: layouts against plain transposes, slices against the whole, full accounts."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from belle_jax import models
from belle_jax.architecture import PRESETS, Architecture
from belle_jax.formats import names
from belle_jax.weights.tensors import DTYPES, Stored

RNG = np.random.default_rng(7)
LLAMA = Architecture(
    vocab_size=203,
    embed=24,
    layers=3,
    q_heads=6,
    kv_heads=2,
    head_dim=8,
    mlp=40,
    attention_bias=True,
    mlp_bias=True,
)
BLOOM = Architecture(family='bloom', vocab_size=131, embed=42, layers=2, q_heads=14, tied=True)
BOTH = pytest.mark.parametrize('architecture', [LLAMA, BLOOM], ids=['llama', 'bloom'])


def published(architecture, dtype='float32') -> dict[str, Stored]:
    """Random tensors under the table's names."""
    return {
        name: Stored(name, Path('x.bin'), RNG.normal(size=e.their_shape).astype(DTYPES[dtype]))
        for e in names.table(architecture)
        for name in e.their_names
    }


def whole(entry, stored, dtype='float32'):
    tensors = [stored[name].array for name in entry.their_names]
    index = tuple(slice(None) for _ in entry.our_shape)
    return entry.take(tensors, index, DTYPES[dtype])


def entry_of(architecture, name):
    return next(e for e in names.table(architecture) if e.ours == name)


@pytest.mark.parametrize('name', ['llama2_70b', 'llama3_8b', 'llama_7b', 'bloom_560m', 'bloom_7b1'])
def test_the_table_has_exactly_the_parameters_of_the_model(name):
    ours = {e.ours: e.our_shape for e in names.table(PRESETS[name])}
    assert ours == {n: s.shape for n, s in models.specs(models.Blueprint(PRESETS[name])).items()}


@BOTH
def test_the_table_has_exactly_the_parameters_of_a_model_with_every_option(architecture):
    ours = {e.ours: e.our_shape for e in names.table(architecture)}
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
    entry = names.table(architecture)[0]
    table, rows = whole(entry, stored), architecture.vocab_size
    assert table.shape[0] == architecture.padded_vocab > rows
    assert np.array_equal(table[:rows], stored[entry.theirs].array)
    assert not table[rows:].any()


@BOTH
def test_any_slice_is_that_slice_of_the_whole(architecture):
    stored = published(architecture)
    for entry in names.table(architecture):
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
    for entry in names.table(architecture):
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


@BOTH
@pytest.mark.parametrize('prefixed', [True, False])
def test_names_match_with_and_without_the_prefix(architecture, prefixed):
    stored = published(architecture)
    prefix = names.PREFIX[architecture.family]
    given = stored if prefixed else {n.removeprefix(prefix): t for n, t in stored.items()}
    found = names.match(architecture, given)
    assert found.keys() == stored.keys()
    assert all(found[n].array is stored[n].array for n in found)


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
    found = names.match(architecture, tensors | {name: stored(name, (4,))})
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
        names.match(architecture, tensors | {name: stored(name, (4,))})
    assert f'{name} in dir/x.bin' in str(error.value)


def test_missing_misshapen_and_quantised_tensors_are_named():
    name = 'model.layers.1.mlp.down_proj.bias'
    tensors = published(LLAMA)
    del tensors[name]
    with pytest.raises(ValueError, match=f'{name} is missing from x.bin: '):
        names.match(LLAMA, tensors)
    with pytest.raises(ValueError, match=rf'{name} in dir/x.bin has shape \[25\].*\[24\]'):
        names.match(LLAMA, tensors | {name: stored(name, (25,))})
    with pytest.raises(ValueError, match=f'{name} in dir/x.bin holds int32 numbers'):
        names.match(LLAMA, tensors | {name: stored(name, (24,), 'int32')})


def test_a_stored_head_of_a_tied_model_must_be_its_table():
    tensors = published(BLOOM)
    table = tensors['transformer.word_embeddings.weight'].array
    copy = Stored('lm_head.weight', Path('x.bin'), table.copy())
    assert 'lm_head.weight' not in names.match(BLOOM, tensors | {'lm_head.weight': copy})
    copy.array[130, 41] += 1
    with pytest.raises(ValueError, match='lm_head.weight in x.bin differs .*tie_word_embeddings'):
        names.match(BLOOM, tensors | {'lm_head.weight': copy})
