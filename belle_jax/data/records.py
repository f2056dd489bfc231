"""The layouts in which people publish instruction data, each turned into a conversation."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

Message = dict[str, Any]  # role: system, user or assistant; content; input (alpaca's, of a user)

ROLES = {
    'system': 'system',
    'human': 'user',
    'user': 'user',
    'gpt': 'assistant',
    'assistant': 'assistant',
    'chatgpt': 'assistant',
    'bard': 'assistant',
    'bing': 'assistant',
}
PAIRS = (('input', 'target'), ('question', 'answer'), ('prompt', 'completion'))
KNOWN = (
    'instruction and output (alpaca), input and target (early BELLE), conversations (BELLE, '
    'ShareGPT), messages (OpenAI), question and answer, prompt and completion, or text'
)


class BadRow(ValueError):
    """A row that cannot be used: `reason` in few words for counting, the message for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Record(NamedTuple):
    """One usable row: a conversation that starts with the user's turn, or plain text."""

    messages: list[Message]  # role, content, and for alpaca's rows input
    text: str | None = None


def layout(row: Any) -> str:
    """How the rows of a file are laid out, from the first one.

    Args:
        row: What JSON or Parquet held.
    Returns:
        The layout's name, for `parse` and for people.
    Raises:
        BadRow: no known layout has these fields.
    """
    if not isinstance(row, dict):
        raise BadRow('no known fields', f'a row is an object with fields, not {_kind(row)}.')
    fields = {name for name, value in row.items() if value is not None}
    if {'chosen', 'rejected'} & fields:
        raise BadRow(
            'preference row',
            'rows with chosen and rejected are for preference training: instruction data has one '
            'answer.',
        )
    if 'messages' in fields:
        return 'OpenAI messages'
    if 'conversations' in fields:
        return 'conversations'
    if 'instruction' in fields and ('output' in fields or 'instances' not in fields):
        many = _turns(row['instruction']) if isinstance(row['instruction'], str) else None
        return 'BELLE multiturn_chat' if many else 'alpaca'
    for question, answer in PAIRS:
        if {question, answer} <= fields:
            return f'{question}/{answer}'
    if 'text' in fields:
        return 'text'
    raise BadRow(
        'no known fields',
        f'a row with the fields {", ".join(map(str, row)) or "(none)"} is of no known layout: '
        f'known are {KNOWN}.',
    )


def parse(row: Any, name: str) -> tuple[Record, int]:
    """A row as a record.

    Args:
        row: What JSON or Parquet held.
        name: The layout, which `layout` found.
    Returns:
        The record; 1 if the conversation ended with a question, which was left out, else 0.
    Raises:
        BadRow: a field is missing or of the wrong type, a role is unknown, an answer is empty.
    """
    if not isinstance(row, dict):
        raise BadRow('no known fields', f'a row is an object with fields, not {_kind(row)}.')
    if name == 'text':
        text = _text(row, 'text')
        if not text.strip():
            raise BadRow('empty text', 'the field "text" is empty.')
        return Record([], text), 0
    messages = _LAYOUTS.get(name, _pair(name))(row)
    unanswered = int(len(messages) > 1 and messages[-1]['role'] == 'user')
    if unanswered and any(m['role'] == 'assistant' for m in messages):
        messages = messages[:-1]
    else:
        unanswered = 0
    return Record(_checked(messages)), unanswered


def _alpaca(row: dict[str, Any]) -> list[Message]:
    instruction, output = _text(row, 'instruction'), _text(row, 'output')
    extra = _text(row, 'input', '')
    system = _text(row, 'system', '')
    messages = [{'role': 'system', 'content': system}] if system else []
    turns = None if extra else _turns(instruction)
    if turns:
        return [*messages, *turns, {'role': 'assistant', 'content': output}]
    messages += _history(row)
    if not instruction:  # an instruction that stands in the input alone
        instruction, extra = extra, ''
    messages.append({'role': 'user', 'content': instruction})
    if extra:
        messages[-1]['input'] = extra
    return [*messages, {'role': 'assistant', 'content': output}]


def _history(row: dict[str, Any]) -> list[Message]:
    entries = row.get('history')
    if entries is None or entries == '':
        return []
    if not isinstance(entries, list):
        raise BadRow('broken field', f'the field "history" must be a list, not {_kind(entries)}.')
    messages = []
    for entry in entries:
        pair = isinstance(entry, list | tuple) and len(entry) == 2
        if not pair or not all(isinstance(text, str) for text in entry):
            raise BadRow('broken field', 'each entry of "history" is a question and an answer.')
        for role, text in zip(('user', 'assistant'), entry):
            messages.append({'role': role, 'content': _whole(text, 'history')})
    return messages


def _turns(text: str) -> list[Message] | None:
    """BELLE's multiturn_chat: earlier turns inside the instruction, the last one open.

    `Human:...\\nAssistant:...\\nHuman:...\\nAssistant:` (the last `Assistant:` may be missing).
    """
    text = text.strip()
    if not text.startswith(('Human:', 'Human：')):
        return None
    parts = re.split(r'(?:^|\n)[ \t]*(Human|Assistant)[:：]', text)[1:]
    turns = [
        {'role': ROLES[role.lower()], 'content': content.strip()}
        for role, content in zip(parts[::2], parts[1::2])
    ]
    if turns[-1]['role'] == 'assistant':
        if turns[-1]['content']:
            return None  # a text that only looks like it
        turns.pop()
    expected = ('user', 'assistant')
    alternating = all(t['role'] == expected[i % 2] for i, t in enumerate(turns))
    return turns if alternating and len(turns) % 2 else None


def _pair(name: str) -> Callable[[dict[str, Any]], list[Message]]:
    question, answer = name.partition('/')[::2]
    return lambda row: [
        {'role': 'user', 'content': _text(row, question)},
        {'role': 'assistant', 'content': _text(row, answer)},
    ]


def _conversation(field: str, role: str, content: str) -> Callable[[dict[str, Any]], list[Message]]:
    def read(row: dict[str, Any]) -> list[Message]:
        turns = row.get(field)
        if turns is None:
            raise BadRow('missing field', f'the field "{field}" is missing.')
        if not isinstance(turns, list) or not turns:
            raise BadRow('broken field', f'the field "{field}" must be a list of turns.')
        messages = []
        system = _text(row, 'system', '')
        if system:
            messages.append({'role': 'system', 'content': system})
        for turn in turns:
            if not isinstance(turn, dict):
                raise BadRow(
                    'broken field', f'a turn in "{field}" is an object, not {_kind(turn)}.'
                )
            name = _text(turn, role)
            if name.lower() not in ROLES:
                raise BadRow(
                    'unknown role',
                    f'the role {name!r} is unknown: known are {", ".join(ROLES)}.',
                )
            messages.append({'role': ROLES[name.lower()], 'content': _text(turn, content)})
        return messages

    return read


_LAYOUTS = {
    'alpaca': _alpaca,
    'BELLE multiturn_chat': _alpaca,
    'conversations': _conversation('conversations', 'from', 'value'),
    'OpenAI messages': _conversation('messages', 'role', 'content'),
}


def _checked(messages: list[Message]) -> list[Message]:
    expected = 'user'
    for number, message in enumerate(messages, 1):
        role, content = message['role'], message['content']
        if role == 'system' and number == 1:
            continue
        if role != expected:
            raise BadRow(
                'turns out of order',
                f'turn {number} is of role {role} where {expected} belongs: a system message comes '
                'first, then user and assistant take turns.',
            )
        if not content.strip() and not message.get('input'):
            what = 'answer' if role == 'assistant' else 'question'
            raise BadRow(f'empty {what}', f'turn {number} is an empty {what}.')
        expected = 'assistant' if role == 'user' else 'user'
    return messages


def _text(row: dict[str, Any], field: str, missing: str | None = None) -> str:
    """A field's text; `missing` for one that may be absent or null."""
    value = row.get(field)
    if value is None:
        if missing is not None:
            return missing
        raise BadRow('missing field', f'the field "{field}" is missing.')
    if not isinstance(value, str):
        raise BadRow('broken field', f'the field "{field}" must be text, not {_kind(value)}.')
    return _whole(value, field)


def _whole(text: str, field: str) -> str:
    """The text, which JSON's escapes may have given half of a character."""
    if not text.isascii():
        try:
            text.encode('utf-8')
        except UnicodeEncodeError as error:
            raise BadRow(
                'not UTF-8', f'the field "{field}" holds half of a character ({error.reason}).'
            ) from error
    return text


def _kind(value: Any) -> str:
    names = {list: 'a list', dict: 'an object', str: 'text', bool: 'true or false'}
    return names.get(type(value), 'nothing' if value is None else 'a number')
