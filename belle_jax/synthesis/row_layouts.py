"""The layouts that rows can be written in, and a conversation in each of them.

What is written is read back and compared: a layout that cannot say a conversation raises Unsayable
instead of bending it silently.
"""

from collections.abc import Callable
from typing import Any

from belle_jax.data.records import ROLES, BadRow, Message, layout, parse

Row = dict[str, Any]

LAYOUTS = {
    'alpaca': 'instruction, input, output; earlier turns in history, a system message in system',
    'belle_early': "input and target, as BELLE's early files",
    'belle_multiturn': "instruction with all turns as Human: and Assistant:, output, as BELLE's "
    'multiturn_chat',
    'belle': "id and conversations of human and assistant, as BELLE's 3.5M set",
    'sharegpt': 'conversations of human and gpt',
    'messages': "messages of user and assistant, as OpenAI's",
}
READ_AS = {  # a target's layout, as rows.layout calls it
    'alpaca': 'alpaca',
    'belle_early': 'input/target',
    'belle_multiturn': 'BELLE multiturn_chat',
    'belle': 'conversations',
    'sharegpt': 'conversations',
    'messages': 'OpenAI messages',
}
SPEAKERS = {
    'belle': {'system': 'system', 'user': 'human', 'assistant': 'assistant'},
    'sharegpt': {'system': 'system', 'user': 'human', 'assistant': 'gpt'},
    'messages': {'system': 'system', 'user': 'user', 'assistant': 'assistant'},
}
TURNS = {'conversations': ('conversations', 'from', 'value')}
TURNS['OpenAI messages'] = ('messages', 'role', 'content')
NO_ANSWER = 'last question without an answer'


class Unsayable(Exception):
    """The target's layout has no place for what a row says."""


def conversation(row: Row, name: str) -> tuple[list[Message], str]:
    """The turns of a row, as training reads them.

    Args:
        row: What the file held.
        name: Its layout, as `rows.layout` calls it.
    Returns:
        The turns; the last question, which training leaves out, where nobody answered it, or ''.
    Raises:
        BadRow: the row cannot be read.
    """
    record, unanswered = parse(row, name)
    question = ''
    if unanswered and record.messages[-1]['role'] == 'assistant':
        field, _, content = TURNS[name]
        question = row[field][-1][content]
    return list(record.messages), question if question.strip() else ''


def written(messages: list[Message], to: str, separator: str = '') -> tuple[Row, list[str]]:
    """A conversation in a layout.

    Args:
        messages: The turns; an unanswered question may be the last one.
        to: The layout, of LAYOUTS.
        separator: Between instruction and input where the layout has one field for both.
    Returns:
        The layout's fields; what was said otherwise, in few words each.
    Raises:
        Unsayable: the layout has no place for what the conversation says.
    """
    changed = []
    if to not in SPEAKERS and messages[-1]['role'] == 'user' and len(messages) > 2:
        messages = messages[:-1]
        changed.append(f'{NO_ANSWER} left out')
    if to != 'alpaca' and any(message.get('input') for message in messages):
        messages = [_joined(message, separator) for message in messages]
        changed.append('input joined to the instruction')
    if to == 'belle_multiturn':
        bare = _stripped(messages)
        changed += ['outer white space of turns removed'] if bare != messages else []
        messages = bare
    fields = _BUILD[to](messages)
    # Text may look like the layout's own marks (`Human:` at the beginning of a line).
    try:
        again, question = conversation(fields, layout(fields))
    except BadRow as bad:
        raise Unsayable(f'not readable as {to} ({bad.reason})') from bad
    if question:
        again.append({'role': 'user', 'content': question})
    if again != messages:
        raise Unsayable(f'text that {to} would read otherwise')
    return fields, changed


def renamed(row: Row, to: str) -> Row:
    """A row that is laid out as it should be, its speakers named as the layout names them.

    Args:
        row: What the file held; it is not changed in place.
        to: The layout, of LAYOUTS.
    """
    if to not in SPEAKERS:
        return row
    field, role, _ = TURNS[READ_AS[to]]
    names = SPEAKERS[to]
    turns = [turn | {role: names[ROLES[turn[role].lower()]]} for turn in row[field]]
    return row | {field: turns}


def _joined(message: Message, separator: str) -> Message:
    if not message.get('input'):
        return message
    text = message['content'] + separator + message['input']
    return {'role': message['role'], 'content': text}


def _stripped(messages: list[Message]) -> list[Message]:
    """Labels stand between the turns, so that white space around them belongs to nobody."""
    *turns, answer = messages
    return [*({**turn, 'content': turn['content'].strip()} for turn in turns), answer]


def _answered(messages: list[Message]) -> list[Message]:
    if messages[-1]['role'] != 'assistant':
        raise Unsayable(NO_ANSWER)
    return messages


def _alpaca(messages: list[Message]) -> Row:
    system, turns = _system(_answered(messages))
    *earlier, question, answer = turns
    fields = {'instruction': question['content'], 'input': question.get('input') or ''}
    fields |= {'output': answer['content']}
    if earlier:
        texts = [turn['content'] for turn in earlier]
        fields['history'] = [list(pair) for pair in zip(texts[::2], texts[1::2])]
    return fields | system


def _multiturn(messages: list[Message]) -> Row:
    system, turns = _system(_answered(messages))
    labels = {'user': 'Human', 'assistant': 'Assistant'}
    lines = [f'{labels[turn["role"]]}:{turn["content"]}' for turn in turns[:-1]]
    instruction = '\n'.join([*lines, 'Assistant:'])
    return {'instruction': instruction, 'input': '', 'output': turns[-1]['content']} | system


def _early(messages: list[Message]) -> Row:
    system, turns = _system(_answered(messages))
    if system or len(turns) > 2:
        raise Unsayable('system message' if system else 'several turns')
    return {'input': turns[0]['content'], 'target': turns[1]['content']}


def _turns(to: str) -> Callable[[list[Message]], Row]:
    field, role, content = TURNS[READ_AS[to]]
    names = SPEAKERS[to]
    return lambda messages: {
        field: [{role: names[m['role']], content: m['content']} for m in messages]
    }


def _system(messages: list[Message]) -> tuple[dict[str, str], list[Message]]:
    if messages[0]['role'] != 'system':
        return {}, messages
    return {'system': messages[0]['content']}, messages[1:]


_BUILD: dict[str, Callable[[list[Message]], Row]] = {
    'alpaca': _alpaca,
    'belle_early': _early,
    'belle_multiturn': _multiturn,
    'belle': _turns('belle'),
    'sharegpt': _turns('sharegpt'),
    'messages': _turns('messages'),
}
