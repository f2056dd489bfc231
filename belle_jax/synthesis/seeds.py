"""Seed tasks: the handful of examples that all generated instructions grow from.

`OWN` is this project's file of 175 Chinese tasks in BELLE's format, with a category each. BELLE's
own `zh_seed_tasks.json`, the English `seed_tasks.jsonl` of self-instruct and rows of instruction,
input and output are read too, as JSON lines or as a JSON array.
"""

import pathlib
from typing import Any

from belle_jax.data.records import BadRow
from belle_jax.data.row_file import RowFile

OWN = pathlib.Path(__file__).with_name('seeds.jsonl')

Seed = dict[str, Any]


def read(path: str | pathlib.Path = OWN, shots: int = 3) -> list[Seed]:
    """The seed tasks of a file.

    Args:
        path: JSON lines or a JSON array; by default this project's own tasks.
        shots: Seed tasks that a prompt shows.
    Returns:
        A task for each row, in order: its own fields, and always id, name, instruction, instances
        (one or more, each with input and output) and is_classification. Two tasks may share an id.
    Raises:
        ValueError: with file and line, a row is broken, or a field is missing or of the wrong type;
            or there are too few tasks.
    """
    seeds = []
    for where, row in RowFile(path):
        if isinstance(row, BadRow):
            raise ValueError(f'{where}: {row} Mend the seed task, or delete its line.')
        try:
            seeds.append(_seed(row, len(seeds)))
        except BadRow as bad:
            raise ValueError(f'{where}: {bad} Mend the seed task, or delete it.') from bad
    if not seeds:
        raise ValueError(f'{path} contains no seed task: give a file with {max(2, shots)} or more.')
    if len(seeds) == 1:
        raise ValueError(
            f'{path} holds one seed task alone, so that all prompts would be the same: add tasks, '
            'BELLE has 175.'
        )
    if len(seeds) < shots:
        raise ValueError(
            f'{path} holds {len(seeds)} seed tasks, but each prompt shows {shots}: add tasks, or '
            f'set --num_prompt_instructions to {len(seeds)} or less.'
        )
    return seeds


def _seed(row: Any, number: int) -> Seed:
    if not isinstance(row, dict):
        raise BadRow('no object', 'a seed task is an object with fields.')
    instruction = _text(row, 'instruction', 'the seed task')
    if not instruction.strip():
        raise BadRow('empty', 'the field "instruction" is empty.')
    instances = row.get('instances')
    if instances is None and 'output' in row:
        instances = [{'input': row.get('input') or '', 'output': row['output']}]
    if instances is None:
        raise BadRow('missing', 'the seed task lacks the field "instances".')
    if not isinstance(instances, list) or not instances:
        raise BadRow('wrong type', 'the field "instances" must be a list of one or more examples.')
    for example in instances:
        if not isinstance(example, dict):
            raise BadRow('wrong type', 'each of "instances" is an object with input and output.')
        _text(example, 'input', 'an instance')
        if not _text(example, 'output', 'an instance').strip():
            raise BadRow('empty', 'the field "output" of an instance is empty.')
    classification = row.get('is_classification', False)
    if not isinstance(classification, bool):
        raise BadRow('wrong type', 'the field "is_classification" must be true or false.')
    if 'category' in row:
        _text(row, 'category', 'the seed task')
    known = {'id': row.get('id', f'seed_task_{number}'), 'name': row.get('name', '')}
    rest = {field: value for field, value in row.items() if field not in ('input', 'output')}
    return known | rest | {'instances': instances, 'is_classification': classification}


def _text(row: dict[str, Any], field: str, what: str) -> str:
    if field not in row:
        raise BadRow('missing', f'{what} lacks the field "{field}".')
    if not isinstance(row[field], str):
        raise BadRow('wrong type', f'the field "{field}" must be text.')
    return row[field]
