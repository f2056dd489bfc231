"""Which products of a model get an adapter, and how large it is."""

import pytest

from belle_jax.families import PRESETS, LowRank
from belle_jax.families.low_rank import count_parameters, targets

BELLE = 'q_proj,k_proj,v_proj,gate_proj,up_proj,down_proj'


@pytest.mark.parametrize(
    ('preset', 'patterns', 'rank', 'count'),
    [
        ('llama_7b', BELLE, 8, 17_891_328),  # both from BELLE's paper on LoRA
        ('llama_13b', BELLE, 8, 28_016_640),
        ('llama_7b', 'q_proj,v_proj', 8, 4_194_304),  # as peft's documents have it
        ('bloom_7b1', 'query_key_value', 8, 30 * 8 * (4096 + 3 * 4096)),
    ],
)
def test_adapters_have_as_many_parameters_as_published(preset, patterns, rank, count):
    architecture = PRESETS[preset]
    adapter = LowRank(rank, 16.0, targets(architecture, patterns))
    assert count_parameters(architecture, adapter) == count


def test_products_are_named_as_here_or_as_published():
    llama, bloom = PRESETS['llama_7b'], PRESETS['bloom_560m']
    both = ('attention.query', 'attention.value')
    assert targets(llama, 'q_proj, v_proj') == targets(llama, 'query,value') == both
    assert targets(llama, 'mlp.*') == ('mlp.gate', 'mlp.up', 'mlp.down')
    assert len(targets(llama, '')) == 7 and len(targets(bloom, '')) == 4
    with pytest.raises(ValueError, match=r"'kernel' matches no product .* attention.query"):
        targets(llama, 'kernel')


@pytest.mark.parametrize(
    ('fields', 'match'), [((0, 1.0, ('a',)), 'rank 0'), ((4, 1.0, ()), 'without a target')]
)
def test_an_adapter_of_nothing_is_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        LowRank(*fields)
