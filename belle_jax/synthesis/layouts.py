"""Conversion between the layouts in which people publish instruction data.

Rows are read as training reads them and written one by one. What is written is read back and
compared: what the target's layout cannot say is left out, counted and said, and never bent.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

from belle_jax.data.fields import MARKS
from belle_jax.data.records import ROLES, TURNS, BadRow, Message, layout, parse
from belle_jax.data.row_file import RowFile, new_row_file
from belle_jax.disk import distinct
from belle_jax.progress import Progress
from belle_jax.texts.filters import Row

LAYOUTS = {  # and each as `records.layout` calls it
    # instruction, input, output; earlier turns in history, a system message in system
    'alpaca': 'alpaca',
    # input and target, as BELLE's early files
    'belle_early': 'input/target',
    # instruction with all turns as Human: and Assistant:, output, as BELLE's multiturn_chat
    'belle_multiturn': 'BELLE multiturn_chat',
    # id and conversations of human and assistant, as BELLE's 3.5M set
    'belle': 'conversations',
    # conversations of human and gpt
    'sharegpt': 'conversations',
    # messages of user and assistant, as OpenAI's
    'messages': 'OpenAI messages',
}
SPEAKERS = {
    'belle': {'system': 'system', 'user': 'human', 'assistant': 'assistant'},
    'sharegpt': {'system': 'system', 'user': 'human', 'assistant': 'gpt'},
    'messages': {'system': 'system', 'user': 'user', 'assistant': 'assistant'},
}
# What stands between instruction and input where a layout has one field for both, by name. BELLE's
# own converter writes nothing there, which in English joins two words.
SEPARATORS = {'line': '\n', 'belle': ''}
NO_ANSWER = 'last question without an answer'
# Fields that some layout reads: as a field of another layout's row they would change its meaning.
MEANT = frozenset(
    'instruction input output history system instances conversations messages question answer '
    'prompt completion target text chosen rejected response query context system_prompt '
    'conversation mask'.split()
)


class Unsayable(Exception):
    """The target's layout has no place for what a row says."""


@dataclasses.dataclass
class ConversionAccount:
    """What became of the rows of one conversion.

    Attributes:
        source: The file that was read, its container and layout.
        target: The file that was written and its layout.
        rows: Rows read.
        written: Rows written.
        skipped: Rows left out, by reason.
        changed: Written rows that lost something or say it otherwise, by what.
    """

    source: str
    target: str
    rows: int = 0
    written: int = 0
    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    changed: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __str__(self) -> str:
        lines = [f'{self.source}: {self.rows:,} rows', f'{self.target}: {self.written:,} rows']
        lines += [f'  left out, {reason}: {n:,}' for reason, n in self.skipped.most_common()]
        lines += [f'  {what}: {n:,} rows' for what, n in self.changed.most_common()]
        return '\n'.join(lines)


def convert(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    to: str,
    *,
    container: str = '',
    separator: str = 'line',
    on_bad_row: str = 'error',
    overwrite: bool = False,
) -> ConversionAccount:
    """Writes a file of rows again in another layout, row by row.

    Ids and fields that no layout reads (category, similarity) go along as they are. A file that has
    the target's layout already is copied row by row, its roles renamed.

    Args:
        source: JSON array, JSON lines or Parquet, of any layout that training reads, text aside.
        target: The file to write; it appears under its name when it is complete.
        to: The layout, of LAYOUTS.
        container: 'array' or 'lines'; '' for what the target's ending says (.jsonl: lines).
        separator: Between instruction and input where the layout has one field for both: a name of
            SEPARATORS, or any text. White space is not doubled.
        on_bad_row: 'error' or 'skip' for rows that cannot be read.
        overwrite: Whether a target that is there may be replaced.
    Returns:
        What was read, written, left out and changed.
    Raises:
        ValueError: the layout is unknown; a row is bad (with file and line); no row is left; the
            target is there or cannot be written.
    """
    if to not in LAYOUTS:
        raise ValueError(f'the layout {to!r} is unknown: known are {", ".join(LAYOUTS)}.')
    if on_bad_row not in ('error', 'skip'):
        raise ValueError(f"on_bad_row={on_bad_row!r} is unknown: set it to 'error' or 'skip'.")
    source, target = pathlib.Path(source), pathlib.Path(target)
    distinct({'--rows': source}, {'--output': target})
    rows = RowFile(source)
    separator = SEPARATORS.get(separator, separator)
    account = ConversionAccount(f'{source}: {rows.container}', f'{target}: {to}')
    strict, progress = on_bad_row == 'error', Progress('Converting', 'rows')
    with new_row_file(target, container, overwrite) as write:
        for converted, changed in _converted_rows(rows, account, to, separator, strict):
            write(converted)
            account.written += 1
            account.changed.update(changed)
            progress.show(account.rows, rows.done)
        if not account.written:
            reasons = ', '.join(f'{reason} ({n})' for reason, n in account.skipped.items())
            raise ValueError(
                f'no row of {source} can be written as {to}: {reasons or "it holds none"}.'
            )
    progress.end(account.rows)
    return account


def _converted_rows(
    rows: RowFile, account: ConversionAccount, to: str, separator: str, strict: bool
) -> Iterator[tuple[Row, list[str]]]:
    """The rows that can be converted, with what they lost; the others are counted."""
    name = None
    for where, row in rows:
        account.rows += 1
        try:
            if isinstance(row, BadRow):
                raise row
            name = name or _source_layout(row, account)
            made = _converted(row, name, to, separator)
        except BadRow as bad:
            if strict:
                raise bad.refused(where, '--on_bad_row') from bad
            account.skipped[bad.reason] += 1
        except Unsayable as reason:
            account.skipped[str(reason)] += 1
        else:
            yield made


def _source_layout(row: Any, account: ConversionAccount) -> str:
    name = layout(row)
    if name == 'text':
        raise ValueError(
            f'{account.source} holds plain text, which has no question and answer: there is '
            'nothing to convert.'
        )
    account.source += f', {name}'
    return name


def _converted(row: Any, name: str, to: str, separator: str) -> tuple[Row, list[str]]:
    """The row in the other layout, and what it lost or says otherwise."""
    messages = _conversation(row, name)
    if name == LAYOUTS[to]:
        if to not in SPEAKERS:
            return row, []
        field, role, _ = TURNS[name]
        turns = [turn | {role: SPEAKERS[to][ROLES[turn[role].lower()]]} for turn in row[field]]
        return row | {field: turns}, []
    fields, changed = _written(messages, to, separator)
    rest, lost = _rest(row, name)
    first = {'id': rest.pop('id')} if 'id' in rest else {}
    return first | fields | rest, changed + lost


def _conversation(row: Row, name: str) -> list[Message]:
    """The turns of a row as training reads them, and the last question that nobody answered."""
    record, _ = parse(row, name)
    messages = list(record.messages)
    if record.left_out and record.left_out['content'].strip():
        messages.append(record.left_out)
    return messages


def _rest(row: Row, name: str) -> tuple[Row, list[str]]:
    """The fields that are not the layout's own, and what cannot go along."""
    changed = []
    own = {'instruction', 'input', 'output', 'history', 'system'}
    if '/' in name:
        own = {*name.split('/'), 'history', 'system', 'system_prompt'}
    elif name in TURNS:
        field, *keys = TURNS[name]
        own = {field, 'system', 'system_prompt', 'mask'}
        if any(turn.keys() - {*keys, *MARKS} for turn in row[field]):
            changed.append('further fields of turns left out')
    rest = {key: value for key, value in row.items() if key not in own}
    for key in sorted(rest.keys() & MEANT):
        del rest[key]
        changed.append(f'field {key} left out')
    return rest, changed


def _written(messages: list[Message], to: str, separator: str) -> tuple[Row, list[str]]:
    """A conversation in a layout's fields; what was said otherwise, in few words each."""
    changed = []
    if to not in SPEAKERS and messages[-1]['role'] == 'user' and len(messages) > 2:
        messages = messages[:-1]
        changed.append(f'{NO_ANSWER} left out')
    if to != 'alpaca' and any(message.get('input') for message in messages):
        messages = [
            {'role': m['role'], 'content': _joined(m, separator)} if m.get('input') else m
            for m in messages
        ]
        between = {'\n': 'a line feed', '': "nothing, as BELLE's"}.get(separator, repr(separator))
        changed.append(f'input joined to the instruction by {between}')
    if to == 'belle_multiturn':
        # Labels stand between the turns, so that white space around them belongs to nobody.
        bare = [{**turn, 'content': turn['content'].strip()} for turn in messages[:-1]]
        changed += ['outer white space of turns removed'] if bare != messages[:-1] else []
        messages = [*bare, messages[-1]]
    fields = _fields(messages, to)
    # Text may look like the layout's own marks (`Human:` at the beginning of a line).
    try:
        again = _conversation(fields, layout(fields))
    except BadRow as bad:
        raise Unsayable(f'not readable as {to} ({bad.reason})') from bad
    if again != messages:
        raise Unsayable(f'text that {to} would read otherwise')
    return fields, changed


def _joined(turn: Message, separator: str) -> str:
    before, after = turn['content'], turn['input']
    there = not before or before[-1].isspace() or after[0].isspace()
    return before + ('' if there and separator.isspace() else separator) + after


def _fields(messages: list[Message], to: str) -> Row:
    if to in SPEAKERS:
        field, role, content = TURNS[LAYOUTS[to]]
        names = SPEAKERS[to]
        turns = [{role: names[m['role']], content: m['content']} for m in messages]
        for turn, message in zip(turns, messages):
            turn |= {} if message.get('trained', True) else {'weight': 0}
        return {field: turns}
    if not all(message.get('trained', True) for message in messages):
        raise Unsayable('answer that is not learnt')
    if messages[-1]['role'] != 'assistant':
        raise Unsayable(NO_ANSWER)
    system = {'system': messages[0]['content']} if messages[0]['role'] == 'system' else {}
    *earlier, question, answer = messages[len(system) :]
    if to == 'belle_early':
        if system or earlier:
            raise Unsayable('system message' if system else 'several turns')
        return {'input': question['content'], 'target': answer['content']}
    fields: Row = {'instruction': question['content'], 'input': question.get('input') or ''}
    fields['output'] = answer['content']
    if to == 'belle_multiturn':
        labels = {'user': 'Human', 'assistant': 'Assistant'}
        lines = [f'{labels[turn["role"]]}:{turn["content"]}' for turn in (*earlier, question)]
        fields['instruction'] = '\n'.join([*lines, 'Assistant:'])
    elif earlier:
        texts = [turn['content'] for turn in earlier]
        fields['history'] = [list(pair) for pair in zip(texts[::2], texts[1::2])]
    return fields | system
