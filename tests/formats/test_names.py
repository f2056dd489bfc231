"""Tensors by their names: with and without a prefix, and a full account of them."""

from pathlib import Path

import numpy as np
import pytest

from belle_jax import families
from belle_jax.formats import names
from belle_jax.weights.tensors import Stored
from published import BLOOM, BOTH, LLAMA, published


@BOTH
@pytest.mark.parametrize('prefixed', [True, False])
def test_names_match_with_and_without_the_prefix(architecture, prefixed):
    stored = published(architecture)
    prefix = families.of(architecture).prefix
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
