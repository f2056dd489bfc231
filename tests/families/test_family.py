"""Families: what each says is true of its JAX class, and one from elsewhere needs no other file."""

import pkgutil
import re
from typing import ClassVar

import numpy as np
import pytest

from belle_jax import config, families, models
from belle_jax.families import FAMILIES, PRESETS, Architecture, Rope
from belle_jax.families.llama import LlamaFamily
from belle_jax.families.tensor_map import table
from belle_jax.formats import huggingface
from belle_jax.formats.protocol import PublishedModel
from belle_jax.weights.tensors import planned


@pytest.mark.parametrize('family', FAMILIES.values(), ids=FAMILIES)
def test_a_family_names_its_decoder_its_embedding_and_its_sizes(family):
    decoder = pkgutil.resolve_name(family.decoder)
    assert issubclass(decoder, models.Decoder)
    assert family.presets().items() <= PRESETS.items()
    for architecture in family.presets().values():
        maps = families.tensor_maps(architecture)
        assert families.of(architecture) is family
        assert maps[0].theirs == family.embedding
        assert all(m.theirs.startswith((family.prefix, families.HEAD)) for m in maps)


def test_only_fixed_rotary_positions_end():
    def limit(**fields):
        architecture = Architecture(max_position=77, **fields)
        return families.of(architecture).context_limit(architecture)

    assert limit() == limit(rope=Rope('linear', factor=2.0)) == 77
    assert limit(rope=Rope('dynamic', factor=2.0)) is None
    assert limit(family='bloom') is None


class LearnedFamily(LlamaFamily):
    """A LLaMA with learned positions."""

    name = 'learned'
    title = 'Learned'
    published_class = 'LearnedForCausalLM'
    fixed: ClassVar = {'rope': Rope(theta=1.0)}

    def presets(self):
        return {'learned_tiny': Architecture('learned', 96, 16, 2, 2, max_position=40)}

    def tensors(self, architecture):
        a = architecture
        name = 'model.embed_positions.weight'
        positions = table('positions.table', name, a.max_position, a.embed, a.max_position)
        return [*super().tensors(a), positions]


@pytest.fixture
def learned(monkeypatch) -> Architecture:
    """Its only size; the family is forgotten when the test ends."""
    monkeypatch.setitem(FAMILIES, 'learned', family := LearnedFamily())
    monkeypatch.setitem(PRESETS, 'learned_tiny', PRESETS['llama_7b'])
    families.add(family)
    return PRESETS['learned_tiny']


def test_a_family_from_elsewhere_is_configured_written_and_read(learned, tmp_path):
    assert learned.rope.theta == 1 and learned.mlp == 64
    assert Architecture.from_dict(learned.to_dict()) == learned
    assert config.PRESETS['learned_tiny'] == learned
    rng = np.random.default_rng(5)
    values = {
        name: rng.normal(size=m.their_shape).astype(np.float32)
        for m in families.tensor_maps(learned)
        for name in m.their_names
    }
    tensors = {name: planned(name, array) for name, array in values.items()}
    model = PublishedModel(tmp_path, learned, tensors, 'float32', lambda _: [])
    opened = huggingface.open(huggingface.write(model, tmp_path / 'out'))
    assert opened.architecture.family == 'learned'
    whole = tuple(slice(None) for _ in opened.shapes['positions.table'])
    positions = opened.read('positions.table', whole, np.dtype(np.float32))
    assert np.array_equal(positions, values['model.embed_positions.weight'])
    with pytest.raises(ValueError, match='only llama and bloom and learned are'):
        huggingface.architecture_from_config({'model_type': 'gpt2'})


@pytest.mark.parametrize('name', ['mamba', ['llama'], None])
def test_an_unknown_family_is_refused_with_those_that_are_known(name):
    with pytest.raises(ValueError, match=re.escape(f'family={name!r} is not known: choose one of')):
        Architecture(family=name)
