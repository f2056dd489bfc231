"""The catalogue of what BELLE published: whole rows, commands that exist, a table that agrees."""

import json
import re
import shlex
from pathlib import Path

import pytest

from belle_jax.data import templates
from belle_jax.sample import PRESETS
from convert import catalogue

ROOT = Path(__file__).resolve().parents[2]
CATALOGUE = catalogue.read()
MODELS = {f'{m["place"]}/{m["id"]}': m for m in CATALOGUE['models']}
FIELDS = {
    *('id', 'place', 'family', 'size', 'base', 'data', 'template', 'format', 'gigabytes', 'key'),
    *('licence', 'commands', 'note'),
}


def test_the_page_has_the_table_of_the_file():
    assert catalogue.table(CATALOGUE) in (ROOT / 'docs' / 'belle.md').read_text('utf-8')


def test_a_model_is_there_once_and_the_file_is_plain_json():
    assert len(MODELS) == len(CATALOGUE['models']) > 10
    text = json.dumps(CATALOGUE, indent=2, ensure_ascii=False) + '\n'
    assert catalogue.FILE.read_text('utf-8') == text


@pytest.mark.parametrize('model', MODELS.values(), ids=list(MODELS))
def test_a_row_says_everything_or_says_what_was_not_seen(model):
    assert model.keys() == FIELDS
    assert model['family'] in ('bloom', 'llama')
    assert model['format'] in catalogue.FORMATS
    assert model['template'] in (None, *templates.NAMES)
    assert ('enc' in model['format']) == (model['key'] is not None)
    if None in (model['template'], model['licence']):
        assert re.search('not seen|issue', model['note'])
    if model['format'] not in catalogue.UNREAD:
        assert model['commands']


@pytest.mark.parametrize('model', MODELS.values(), ids=list(MODELS))
def test_each_command_is_one_of_this_repository_and_the_next_goes_on_from_it(model):
    made = None
    for command in model['commands']:
        python, dash_m, module, *words = shlex.split(command)
        assert (python, dash_m) == ('python', '-m')
        source = (ROOT / f'{module.replace(".", "/")}.py').read_text('utf-8')
        flags = dict(word.removeprefix('--').split('=') for word in words if word[:2] == '--')
        actions = [word for word in words if word[:2] != '--']
        defined = re.findall(r"flags\.DEFINE_\w+\(\s*'(\w+)'", source)
        runs = module == 'belle_jax.sample'
        needed = {'model', 'weights'} if runs else {'source', 'target'}
        assert needed <= flags.keys() <= set(defined)
        assert ("actions=('" in source) == bool(actions)
        assert all(f"'{action}'" in source for action in actions)
        if runs:
            assert Path(flags['weights']).parent == Path(made or flags['model'])
            assert PRESETS[flags['preset']]['template'] == model['template']
            continue
        assert made in (None, flags['source'])
        made = flags['target']
        assert flags.get('template', model['template']) == model['template']
        if 'key' in flags:
            size, file = flags['key'].split('/')
            assert model['key'] == f'LLaMA-{size} {file}'
    if model['format'] not in (*catalogue.UNREAD, 'gptq', 'gptq, enc'):  # those run as they are
        assert made and made.startswith('runs/')
