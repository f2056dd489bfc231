"""What a run starts from: seed tasks, rows that are there already, categories.

Seed tasks are the handful of examples that all generated instructions grow from. `OWN_SEEDS` are
this project's 175 Chinese ones in BELLE's format, with a category each; 52 are in English. BELLE's
own `zh_seed_tasks.json`, the English `seed_tasks.jsonl` of self-instruct and rows of instruction,
input and output are read too, as JSON lines or as a JSON array.
"""

import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from belle_jax.data.records import BadRow
from belle_jax.data.row_file import RowFile
from belle_jax.disk import sentence
from belle_jax.json_files import read_json
from belle_jax.texts.filters import Row, said

OWN_SEEDS = pathlib.Path(__file__).with_name('seeds.jsonl')
OWN_ENGLISH_SEEDS = pathlib.Path(__file__).with_name('seeds_en.jsonl')
OWN_CATEGORIES = pathlib.Path(__file__).with_name('categories.json')
FIELDS = ('name', 'zh', 'definition')  # of a category


# --- seed tasks -----------------------------------------------------------------------------------


def read_seeds(path: str | pathlib.Path = OWN_SEEDS, shots: int = 3) -> list[Row]:
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
    seeds: list[Row] = []
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


def _seed(row: Any, number: int) -> Row:
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


# --- rows that are there already ------------------------------------------------------------------


def read_rows(paths: Iterable[str | pathlib.Path]) -> list[Row]:
    """The rows of some files, each of which asks something: to be evolved, to be labelled.

    Args:
        paths: JSON arrays, JSON lines or Parquet, of any layout that `said` reads.
    Returns:
        The rows, in order, as they were.
    Raises:
        ValueError: a file cannot be read; with file and line, a row is broken or asks nothing.
    """
    rows = []
    for where, row in itertools.chain.from_iterable(map(objects, paths)):
        if not _asks(row):
            raise ValueError(
                f'{where}: no question is found in the fields {", ".join(map(str, row))}: known '
                'are instruction, input, question, prompt, conversations and messages. Mend the '
                'row, or delete it.'
            )
        rows.append(row)
    return rows


def read_objects(path: str | pathlib.Path) -> list[Row]:
    """The rows of a file, as in `read_rows`, whose fields are somebody else's matter."""
    return [row for _, row in objects(path)]


def objects(path: str | pathlib.Path) -> Iterator[tuple[str, Row]]:
    """As `read_objects`, one by one, each with where it stands ('rows.json:12')."""
    for where, row in RowFile(path):
        if isinstance(row, BadRow):
            raise ValueError(f'{where}: {row} Mend the row, or delete it.')
        if not isinstance(row, dict):
            raise ValueError(f'{where}: a row is an object with fields. Mend it, or delete it.')
        yield where, row


def _asks(row: Row) -> bool:
    """Whether there is a question, and all that the row says is text."""
    try:
        texts = said(row)
        return bool(''.join((*texts.questions, texts.given)).strip() and ''.join(texts.all))
    except (AttributeError, TypeError):
        return False


# --- categories -----------------------------------------------------------------------------------


def read_categories(path: str | pathlib.Path = OWN_CATEGORIES) -> list[dict[str, str]]:
    """The categories that rows are labelled with, of a file that is easy to change.

    Args:
        path: A JSON array of objects with name (as it is written to rows), zh (as a Chinese reader
            calls it) and definition (what the labelling model is told); by default the 13
            categories of BELLE's 3.5M set.
    Returns:
        The categories, in order.
    Raises:
        ValueError: the file is not there or broken, a field is missing or empty, or two categories
            share a name.
    """
    path = pathlib.Path(path)
    try:
        found = read_json(path, 'mend it', list)
    except OSError as error:
        raise ValueError(sentence(error, f'{path} cannot be read')) from error
    if len(found) < 2:
        raise ValueError(f'{path} must be a JSON array of two categories or more.')
    names = set()
    for number, category in enumerate(found, 1):
        for field in FIELDS:
            text = category.get(field) if isinstance(category, dict) else None
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f'{path}: category {number} has no text in "{field}": each has '
                    f'{", ".join(FIELDS)}.'
                )
        if category['name'] in names:
            raise ValueError(f'{path}: two categories are called {category["name"]!r}: rename one.')
        names.add(category['name'])
    return found
