"""What a run is asked to do, and what it starts from: seed tasks, rows, categories.

Seed tasks are the handful of examples that all generated instructions grow from. `OWN_SEEDS` is
this project's file of 175 Chinese tasks in BELLE's format, with a category each. BELLE's own
`zh_seed_tasks.json`, the English `seed_tasks.jsonl` of self-instruct and rows of instruction,
input and output are read too, as JSON lines or as a JSON array.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from belle_jax.data.records import BadRow
from belle_jax.data.row_file import RowFile
from belle_jax.disk import sentence
from belle_jax.texts.filters import Row, said

# What is asked when no model is named. BELLE's, gpt-3.5-turbo and text-davinci-003, are gone or
# going, and no model of today's completions is anybody's first choice.
MODELS = {'chat': 'gpt-4.1-mini', 'completion': ''}
# BELLE forbids the end of text to GPT-3's models, which would end after the first task. Others have
# another token there.
GPT3, END_OF_TEXT = 'text-davinci', 50256
# BELLE's own stop strings. "20." also ends a reply at "2020." or "20.5", in the middle of an
# answer, and the server says `stop` as for a whole one: so by default only a list's number
# 20 ends it, which is the same for a list and harms no text. `stop=BELLE_STOP` brings them back.
BELLE_STOP = ('\n20', '20.', '20.')
LIST_STOP = ('\n20.', '\n20．', '\n20、')
CHOICES = {
    'api': tuple(MODELS),
    'language': ('zh', 'en'),
    'evolve': ('both', 'deepen', 'widen'),
}
OWN_SEEDS = pathlib.Path(__file__).with_name('seeds.jsonl')
OWN_CATEGORIES = pathlib.Path(__file__).with_name('categories.json')
FIELDS = ('name', 'zh', 'definition')  # of a category


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run's choices; kinds read what they need.

    Attributes:
        seeds: Seed tasks, each with instruction and instances (BELLE's) or input and output.
        rows: Existing rows, to be evolved or labelled: row n belongs to request n.
        categories: The classes, each with name, zh and definition.
        characters: Pairs for dialogues, each with a, b (name, about) and scenes; empty: our own.
        seed: Of every draw: seeds, topics, characters, operators.
        language: 'zh' or 'en', of self-instruct's own prompt and of the rows' language rule.
        num_prompt_instructions: Seed tasks shown in each prompt.
        tasks_per_request: New tasks asked for in each prompt.
        turns: Fewest and most questions of a conversation.
        prompt_file: A text that takes the place of the kind's own prompt.
        evolve: Which ways of changing instructions: 'both', 'deepen' or 'widen'.
        apart: Labels come as rows of id and category alone, not as a field of the whole row.
        longest_answer: Characters above which an answer is rejected.
        api: 'chat' or 'completion'.
        model_name: As the server knows it; empty: one of OpenAI's, for chat.
        max_tokens: Longest reply, in tokens.
        temperature: Of sampling.
        top_p: Nucleus of sampling.
        stop: Strings that end a reply; None: the kind's own.
        request: Fields of every request, over those that come of the other settings; None leaves
            one out.
    """

    seeds: Sequence[Mapping[str, Any]] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    categories: Sequence[Mapping[str, str]] = ()
    characters: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    language: str = 'zh'
    num_prompt_instructions: int = 3
    tasks_per_request: int = 10
    turns: tuple[int, int] = (2, 5)
    prompt_file: str = ''
    evolve: str = 'both'
    apart: bool = False
    longest_answer: int = 8000
    api: str = 'chat'
    model_name: str = ''
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] | None = None
    request: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(
                    f'{field}={getattr(self, field)!r} is unknown: set --{field} to '
                    f'{", ".join(known[:-1])} or {known[-1]}.'
                )
        for field in ('num_prompt_instructions', 'tasks_per_request', 'max_tokens'):
            if getattr(self, field) < 1:
                raise ValueError(
                    f'{field}={getattr(self, field)} asks for nothing: set --{field} to 1 or more.'
                )
        if not self.model:
            raise ValueError(f'api={self.api} has no model of its own: name one with --model_name.')
        fewest, most = self.turns
        if not 1 <= fewest <= most:
            raise ValueError(
                f'turns={fewest},{most}: the fewest questions of a conversation are 1 or more, and '
                'no more than the most. Set --turns.'
            )

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.model_name or MODELS[self.api]

    def body(self, prompt: str, stop: Sequence[str] = ()) -> dict[str, Any]:
        """The request that carries a prompt, exactly as it is sent.

        Args:
            prompt: The text to send.
            stop: The kind's stop strings, unless the settings have their own.
        Source: LianjiaTech/BELLE, data/1.5M.
        """
        chat = {'messages': [{'role': 'user', 'content': prompt}]}
        body: dict[str, Any] = {
            'model': self.model,
            **(chat if self.api == 'chat' else {'prompt': prompt}),
            'n': 1,
            'max_tokens': self.max_tokens,
            'temperature': self.temperature,
            'top_p': self.top_p,
        }
        strings = list(dict.fromkeys(self.stop if self.stop is not None else stop))
        if strings:
            body['stop'] = strings
        if self.model.startswith(GPT3):
            body['logit_bias'] = {str(END_OF_TEXT): -100}
        body |= self.request
        return {field: value for field, value in body.items() if value is not None}


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
        found = json.loads(path.read_text('utf-8-sig'))
    except OSError as error:
        raise ValueError(sentence(error, f'{path} cannot be read')) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8: convert the file to UTF-8.') from error
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}:{error.lineno}: broken JSON ({error.msg}): mend it.') from error
    if not isinstance(found, list) or len(found) < 2:
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
