"""A command's paths are different places, however they are written."""

import os
from pathlib import Path

import pytest

from belle_jax.disk import distinct


def test_one_place_is_found_under_every_name_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = Path('a.json')
    there.write_text('[]')
    Path('folder').mkdir()
    Path('link.json').symlink_to('a.json')
    os.link('a.json', 'hard.json')
    for name in (
        'a.json',
        './a.json',
        'folder/../a.json',
        there.absolute(),
        'link.json',
        'hard.json',
    ):
        with pytest.raises(
            ValueError, match=r'\(of --output\) is what --rows reads.*--output another'
        ):
            distinct({'--rows': ['b.json', 'a.json']}, {'--output': name})
        with pytest.raises(ValueError, match=r'\(of --journal\) is what --output writes'):
            distinct({}, {'--output': there, '--journal': name})


def test_places_that_are_not_there_yet_are_compared_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('folder').mkdir()
    Path('link').symlink_to('folder')
    Path('broken.json').symlink_to('new.json')
    for one, other in (('new.json', 'broken.json'), ('folder/x', 'link/x'), ('x', './y/../x')):
        with pytest.raises(ValueError, match='is what --output writes'):
            distinct({}, {'--output': one, '--journal': other})


def test_different_places_empty_flags_and_a_file_that_is_read_twice_are_no_mistake(tmp_path):
    (tmp_path / 'a').write_text('')
    distinct({'--rows': [tmp_path / 'a', tmp_path / 'a'], '--seeds': '', '--categories': None}, {})
    distinct({'--rows': ['', 'b']}, {'--output': '', '--journal': None, '--target': 'c'})
