"""A recipe resolves to frozen values, and every mistake in one names the field."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from belle_jax import config

RECIPES = sorted(p.stem for p in (Path(__file__).parents[1] / 'configs').glob('[a-z]*.py'))


def recipe(**fields):
    c: Any = config.default()
    c.model.preset = 'llama_7b'
    for name, value in fields.items():
        section, _, field = name.partition('__')
        c[section][field] = value
    return c


def test_a_recipe_survives_the_way_through_json(tmp_path):
    c: Any = config.default()
    c.model.architecture = {'family': 'bloom', 'embed': 64, 'rope': {'theta': 5.0}}
    c.data.path = 'a.jsonl=2.5, b.json'
    run: Any = config.resolve(c)
    config.save(run, tmp_path / 'config.json')
    assert config.load(tmp_path / 'config.json') == run
    assert run.model.architecture.mlp == 256 and run.model.architecture.rope.theta == 5.0
    assert run.data.sources == (config.Source('a.jsonl', 2.5), config.Source('b.json', 1.0))


def test_a_weight_is_the_number_after_the_last_sign():
    path = '/data/date=2024/train.jsonl, a.jsonl=x, /data/date=2024/b.jsonl=0.5'
    assert config.parse_sources(path, 'data.path') == (
        config.Source('/data/date=2024/train.jsonl', 1.0),
        config.Source('a.jsonl=x', 1.0),
        config.Source('/data/date=2024/b.jsonl', 0.5),
    )


def test_a_comma_of_a_path_is_written_with_a_backslash():
    assert config.parse_sources(r'a\,b=2.jsonl, c\,=2,run=2=1', 'data.path') == (
        config.Source('a,b=2.jsonl', 1.0),
        config.Source('c,', 2.0),
        config.Source('run=2', 1.0),
    )


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    before = config.resolve(recipe(optim__clip_norm=0.5))
    config.save(before, tmp_path / 'config.json')

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('os.fsync', killed)  # the new file is written and not yet in its place
        with pytest.raises(KeyboardInterrupt):
            config.save(config.resolve(recipe()), tmp_path / 'config.json')
    assert config.load(tmp_path / 'config.json') == before
    config.save(before, tmp_path / 'config.json')
    assert [p.name for p in tmp_path.iterdir()] == ['config.json']


def test_an_integer_is_taken_for_a_float():
    assert config.resolve(recipe(optim__clip_norm=1.0)).optim.clip_norm == 1.0
    values = config.resolve(recipe()).to_dict()
    values['optim']['clip_norm'] = 2
    assert config.from_dict(values).optim.clip_norm == 2.0


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'optim__name': 'sgd'}, r'optim\.name=.sgd. is not known: choose one of adamw'),
        ({'batch__size': 0}, r'batch\.size=0 must be at least 1'),
        ({'batch__size': 6, 'batch__accumulation': 4}, r'accumulation=4 does not divide'),
        ({'optim__warmup_ratio': 1.5}, r'warmup_ratio=1\.5 is a fraction'),
        ({'data__path': 'a.jsonl=-1'}, r"data\.path='a\.jsonl=-1' gives 'a\.jsonl' the weight"),
        ({'model__source': 'somewhere'}, r'model\.source and model\.preset is set'),
        ({'model__preset': ''}, r'no model is set'),
    ],
)
def test_a_value_out_of_range_names_its_field(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        config.resolve(recipe(**fields))


def test_an_unknown_field_suggests_the_one_that_was_meant():
    with pytest.raises(AttributeError):
        default: Any = config.default()
        default.optim.learning_rat = 1.0
    values = config.resolve(recipe()).to_dict()
    values['optim']['learning_rat'] = 1.0
    with pytest.raises(ValueError, match=r'did you mean optim\.learning_rate\?'):
        config.from_dict(values)
    values = json.loads(json.dumps(config.resolve(recipe()).to_dict()))
    values['seed'] = '7'
    with pytest.raises(ValueError, match=r"seed='7' must be of type int"):
        config.from_dict(values)


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'q_heads': 6, 'kv_heads': 4}, 'kv_heads=4 does not divide q_heads=6'),
        ({'family': 'gpt'}, r"family='gpt' is not known"),
        ({'family': 'bloom', 'kv_heads': 2}, 'BLOOM has one key-value head'),
        ({'head_dim': 7}, 'head_dim=7 is odd'),
        ({'widht': 7}, 'widht is not a field'),
        ({'rope': {'kind': 'yarn'}}, r"rope\.kind='yarn' is not known"),
    ],
)
def test_an_impossible_architecture_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        config.Architecture.from_dict(fields)


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_resolves_in_every_variant(name):
    module = importlib.import_module(f'configs.{name}')
    for variant in getattr(module, 'VARIANTS', ('',)):
        run = config.resolve(module.get_config(variant) if variant else module.get_config())
        assert run.data.path, 'a recipe says which data it is for'
    with pytest.raises(ValueError, match='variant'):
        module.get_config('no such variant')


@pytest.mark.parametrize(
    ('place', 'value', 'sentence'),
    [
        ('optim.learning_rate', float('nan'), 'must be a finite number'),
        ('optim.eps', 0.0, 'must be above 0'),
        ('optim.beta1', 1.5, 'is a fraction'),
        ('data.packing', 'false', 'must be of type bool'),
        ('model.architecture.norm_eps', float('inf'), 'must be a finite number'),
        ('model.architecture.init_std', float('nan'), 'must be a finite number'),
        ('model.architecture.rope.theta', -1.0, 'must be above 0'),
        ('model.architecture.layers', 10**6, 'must be between 1 and 10,000'),
        ('model.architecture.tied', 'false', 'must be of type bool'),
        ('model.architecture.eos_ids', [-5], 'must be between 0 and'),
        ('model.architecture.eos_ids', '25', 'must be of type'),
        ('model.architecture.family', 'lama', "='lama' is not known"),
        ('model.architecture.kv_heads', 3, 'does not divide q_heads'),
        ('model.architecture.lajers', 2, r'not a field; did you mean model\.architecture\.layers'),
    ],
)
def test_nonsense_in_the_configuration_of_a_run_is_refused_by_file_and_field(
    tmp_path, place, value, sentence
):
    values = config.Run(model=config.Model(architecture=config.Architecture())).to_dict()
    *way, last = place.split('.')
    node = values
    for key in way:
        node = node[key]
    node[last] = value
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=sentence) as error:
        config.load(path)
    assert str(error.value).count(str(path)) == 1
    assert place in str(error.value) and '--config' not in str(error.value)
