"""Families: what each says is true of its JAX class, and one from elsewhere needs no other file."""

import pkgutil
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
import training_runs
from belle_jax import config, families, models
from belle_jax.decoding import Engine, Sampling
from belle_jax.families import FAMILIES, PRESETS, Architecture, Rope
from belle_jax.formats import huggingface
from belle_jax.formats.protocol import PublishedModel
from belle_jax.runs.conversion import to_huggingface
from belle_jax.runs.load import load_model
from belle_jax.training.loop import Trainer
from belle_jax.weights.tensors import planned
from learned import LearnedFamily
from loaded import load_parameters


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
    whole = tuple(slice(None) for _ in opened.shapes['positions'])
    positions = opened.read('positions', whole, np.dtype(np.float32))
    assert np.array_equal(positions, values['model.embed_positions.weight'])
    with pytest.raises(ValueError, match='only llama and bloom and learned are'):
        huggingface.architecture_from_config({'model_type': 'gpt2'})


@pytest.mark.parametrize('name', ['mamba', ['llama'], None])
def test_an_unknown_family_is_refused_with_those_that_are_known(name):
    with pytest.raises(ValueError, match=re.escape(f'family={name!r} is not known: choose one of')):
        Architecture(family=name)


def test_a_family_from_elsewhere_is_declared_and_built(learned):
    blueprint = models.Blueprint(learned)
    maps = {m.ours: m.our_shape for m in families.tensor_maps(learned)}
    assert {n: s.shape for n, s in models.specs(blueprint).items()} == maps
    params = tiny.params(learned)
    model = models.build(blueprint, params)
    tokens = jnp.asarray(tiny.packed_batch([[20]], 20, vocab_size=96)['tokens'])
    # Without its table, one token after another of the same kind is all that it can tell.
    bare = models.build(blueprint, params | {'positions': jnp.zeros_like(params['positions'])})
    same = jnp.full((1, 6), 7)
    np.testing.assert_allclose(bare(same)[0, 1:], bare(same)[0, :-1], atol=1e-5)
    assert np.abs(model(same)[0, 1:] - model(same)[0, :-1]).max() > 1e-2

    @jax.jit
    def step(token, at, cache):
        h, cache = model.hidden(token, positions=at, cache=cache)
        return model.logits(h)[:, 0, :96], cache

    cache, said = models.empty_cache(model, 1, 24), []
    for at in range(20):
        logits, cache = step(tokens[:, at : at + 1], jnp.array([[at]]), cache)
        said.append(logits)
    np.testing.assert_allclose(jnp.stack(said, 1), model(tokens), atol=2e-5)


def test_a_family_from_elsewhere_is_trained_exported_and_sampled_from(learned, tmp_path):
    c = training_runs.configured(tmp_path)
    c.model.architecture.family = 'learned'
    c.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    c.optim.update(learning_rate=1e-2, warmup_steps=0)
    c.train.update(steps=4, checkpoint_every=-1)
    Trainer(config.resolve(c), tmp_path / 'run').train()
    losses = training_runs.losses(tmp_path / 'run')
    assert len(losses) == 4 and losses[-1] < losses[0]

    to_huggingface(tmp_path / 'run', tmp_path / 'hf')
    trained, back = load_parameters(tmp_path / 'run'), load_parameters(tmp_path / 'hf')
    assert trained.keys() == back.keys() and 'positions' in back
    for name, value in trained.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)

    model, prompt = load_model(tmp_path / 'hf'), [5, 6, 7]
    (answer,) = Engine(model, eos_ids=()).generate([prompt], Sampling(max_new_tokens=6))
    likeliest = model(jnp.array([[*prompt, *answer.tokens]]))[0].argmax(axis=-1)
    assert answer.tokens == likeliest[2:-1].tolist() and len(answer.tokens) == 6
