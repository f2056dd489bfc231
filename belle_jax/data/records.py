"""The layouts in which people publish instruction data, each turned into a conversation."""

import re
from typing import Any, NamedTuple

from belle_jax.data.fields import ROLES, BadRow, Fields, Message, kind, text, turns, whole

TURN_KEYS = (('from', 'value'), ('role', 'content'))
TURNS = {  # where the turns stand, and what names their speaker and their text
    'OpenAI messages': ('messages', 'role', 'content'),
    'messages of from and value': ('messages', 'from', 'value'),
    'conversations': ('conversations', 'from', 'value'),
    'conversations of role and content': ('conversations', 'role', 'content'),
    'conversation of role and content': ('conversation', 'role', 'content'),
    'conversation of from and value': ('conversation', 'from', 'value'),
}
ALPACA = ('instruction', 'input', 'output')
PAIRS = (
    ('input', 'target'),
    ('question', 'answer'),
    ('prompt', 'completion'),
    ('prompt', 'response'),
    ('query', 'response'),
    ('question', 'response'),
    ('input', 'output'),
)
KNOWN = (
    'instruction and output (alpaca) or response (Dolly), conversations (BELLE, ShareGPT), '
    f'messages (OpenAI), {", ".join(" and ".join(pair) for pair in PAIRS)}, or text'
)
SHOWN = 12  # fields of a row that no layout has


class Record(NamedTuple):
    """One usable row: a conversation that starts with the user's turn, or plain text."""

    messages: list[Message]
    text: str | None = None
    left_out: Message | None = None  # the last question, which nobody answered
    unread: tuple[str, ...] = ()  # fields that say something and were not read, 'messages[].name'


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
        raise BadRow('no known fields', f'a row is an object with fields, not {kind(row)}.')
    fields = {name for name, value in row.items() if value is not None}
    if {'chosen', 'rejected'} & fields:
        raise BadRow(
            'preference row',
            'rows with chosen and rejected are for preference training: instruction data has one '
            'answer.',
        )
    for name, (field, *keys) in TURNS.items():
        listed = field != 'conversation' or isinstance(row.get(field), list)  # a word of many uses
        if field in fields and listed and tuple(keys) == _turn_keys(row[field], field):
            return name
    if 'instruction' in fields and 'response' in fields and 'output' not in fields:
        material = 'input' if 'input' in row and 'context' not in row else 'context'
        return f'instruction/{material}/response'
    if 'instruction' in fields and ('output' in fields or 'instances' not in fields):
        many = _human(row['instruction']) if isinstance(row['instruction'], str) else None
        return 'BELLE multiturn_chat' if many else 'alpaca'
    for question, answer in PAIRS:
        if {question, answer} <= fields:
            return f'{question}/{answer}'
    if 'text' in fields:
        return 'text'
    raise BadRow(
        'no known fields',
        f'a row with the fields {_some(row)} is of no known layout: known are {KNOWN}.',
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
        raise BadRow('no known fields', f'a row is an object with fields, not {kind(row)}.')
    row = Fields(row)
    if name == 'text':
        said = text(row, 'text')
        if not said.strip():
            raise BadRow('empty text', 'the field "text" is empty.')
        return Record([], said, unread=(*row.unread(),)), 0
    system = text(row, 'system', '') or text(row, 'system_prompt', '')
    messages = [{'role': 'system', 'content': system}] if system else []
    single = name.split('/') if '/' in name else ALPACA
    messages += turns(row, *TURNS[name]) if name in TURNS else _asked(row, *single)
    left_out = None
    if messages[-1]['role'] == 'user' and any(m['role'] == 'assistant' for m in messages):
        left_out = messages.pop()
    record = Record(_checked(messages), left_out=left_out, unread=(*row.unread(),))
    return record, int(left_out is not None)


def _turn_keys(entries: Any, field: str) -> tuple[str, str]:
    """What names speaker and text of the turns: the first one tells, or else what is usual."""
    first = entries[0] if isinstance(entries, list) and entries else None
    for keys in TURN_KEYS:
        if isinstance(first, dict) and first.keys() >= {*keys}:
            return keys
    return TURN_KEYS[field != 'conversations']


def _some(row: dict[str, Any]) -> str:
    names = [f'{name:.40}' for name in list(row)[:SHOWN]]
    return ', '.join(names) + (', …' if len(row) > SHOWN else '') or '(none)'


def _asked(row: Fields, question: str, *rest: str) -> list[Message]:
    """A question with its answer, and what came before them.

    TRL's rows have lists of messages in both places: of them, too, the completion alone is learnt.
    """
    *material, answer = rest
    if not material and isinstance(row.get(answer), list):
        answers = turns(row, answer, *TURN_KEYS[1])
    else:
        answers = [{'role': 'assistant', 'content': text(row, answer)}]
    if not material and isinstance(row.get(question), list):
        before = turns(row, question, *TURN_KEYS[1])
        untrained = {'trained': False}
        before = [m | untrained if m['role'] == 'assistant' else m for m in before]
        return [*_history(row), *before, *answers]
    asked = text(row, question)
    extra = ''.join(text(row, field, '') for field in material)
    earlier = _human(asked) if question == 'instruction' and not extra else None
    if earlier:
        return [*_history(row), *earlier, *answers]
    if not asked:  # an instruction that stands in the input alone
        asked, extra = extra, ''
    message = {'role': 'user', 'content': asked} | ({'input': extra} if extra else {})
    return [*_history(row), message, *answers]


def _history(row: Fields) -> list[Message]:
    entries = row.get('history')
    if entries is None or entries == '':
        return []
    if not isinstance(entries, list):
        raise BadRow('broken field', f'the field "history" must be a list, not {kind(entries)}.')
    messages = []
    for entry in entries:
        pair = isinstance(entry, list | tuple) and len(entry) == 2
        if not pair or not all(isinstance(said, str) for said in entry):
            raise BadRow('broken field', 'each entry of "history" is a question and an answer.')
        for role, said in zip(('user', 'assistant'), entry):
            messages.append({'role': role, 'content': whole(said, 'history')})
    return messages


def _human(text: str) -> list[Message] | None:
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
