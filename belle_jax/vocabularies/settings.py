"""Ids of tokens in the settings beside a model: found, and changed with the vocabulary."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from belle_jax.formats.huggingface import read_settings
from belle_jax.json_files import write_json

MODEL_FILES = ('config.json', 'generation_config.json')
NAMES = re.compile(r'.*(_token_ids?|suppress_tokens|words_ids)')


def named(directory: Path) -> dict[int, str]:
    """The ids that a model's settings name, each with its place."""
    found: dict[int, str] = {}
    for name in MODEL_FILES:
        for key, value in read_settings(directory / name).items():
            if NAMES.fullmatch(key):
                _each(value, lambda i, at=f'{key} of {name}': found.setdefault(i, at))
    return {index: place for index, place in found.items() if index >= 0}  # -1: there is none


def renumber(directory: Path, new_ids: Mapping[int, int]) -> None:
    """Changes the ids in all settings of a directory; those that are no token's go."""
    for name in MODEL_FILES:
        if values := read_settings(directory / name):
            changed = {
                key: _each(value, new_ids.get) if NAMES.fullmatch(key) else value
                for key, value in values.items()
            }
            write_json(directory / name, changed)
    path = directory / 'added_tokens.json'
    if values := read_settings(path):
        write_json(path, {token: new_ids[index] for token, index in values.items()})
    path = directory / 'tokenizer_config.json'
    values = read_settings(path)
    if decoder := values.get('added_tokens_decoder'):
        numbered = {str(new_ids[int(index)]): token for index, token in decoder.items()}
        write_json(path, values | {'added_tokens_decoder': numbered})


def _each(value: Any, change: Callable[[int], Any]) -> Any:
    """A setting with each of its ids changed; a list loses those that become None."""
    if isinstance(value, list):
        changed = [_each(one, change) for one in value]
        return [one for one in changed if one is not None]
    return change(value) if type(value) is int else value
