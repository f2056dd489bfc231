"""What the fields of a row say: texts, and lists of turns with the marks of what is learnt."""

from typing import Any

# role: system, user or assistant; content; input (alpaca's, of a user); trained: False for an
# assistant's turn that is read and not learnt.
Message = dict[str, Any]

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
# Marks of a turn, with the value that says that it is learnt: OpenAI's weight, ms-swift's loss,
# Axolotl's train and training, torchtune's masked.
MARKS = {'weight': 1, 'loss': 1, 'train': 1, 'training': 1, 'masked': 0}
SPANS = ('train_detail', 'training_detail')  # Axolotl's marks of single stretches of a turn


class BadRow(ValueError):
    """A row that cannot be used: `reason` in few words for counting, the message for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def refused(self, where: str, flag: str) -> ValueError:
        """The error for people who did not set the flag that skips such rows."""
        return ValueError(f'{where}: {self} Mend it, or count and skip such rows with {flag}=skip.')


class Fields(dict[str, Any]):
    """A row's or a turn's fields, which remember what `get` was asked for."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()
        self.unread_inside: list[str] = []  # of its turns, 'messages[].name', each time anew

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def unread(self) -> list[str]:
        """The fields that say something and that nobody asked for."""
        rest = [k for k, v in self.items() if k not in self.asked and v not in (None, '', [], {})]
        return rest + self.unread_inside


def text(row: dict[str, Any], field: str, missing: str | None = None) -> str:
    """A field's text; `missing` for one that may be absent or null.

    Raises:
        BadRow: the field is missing, is not text, or holds half of a character.
    """
    value = row.get(field)
    if value is None:
        if missing is not None:
            return missing
        raise BadRow('missing field', f'the field "{field}" is missing.')
    if not isinstance(value, str):
        raise BadRow('broken field', f'the field "{field}" must be text, not {kind(value)}.')
    return whole(value, field)


def whole(text: str, field: str) -> str:
    """The text, which JSON's escapes may have given half of a character."""
    if not text.isascii():
        try:
            text.encode('utf-8')
        except UnicodeEncodeError as error:
            raise BadRow(
                'not UTF-8', f'the field "{field}" holds half of a character ({error.reason}).'
            ) from error
    return text


def kind(value: Any) -> str:
    """What a value is, in words."""
    names = {list: 'a list', dict: 'an object', str: 'text', bool: 'true or false'}
    names |= {int: 'a number', float: 'a number', type(None): 'nothing'}
    return names.get(type(value), f'a value of type {type(value).__name__}')


def turns(row: Fields, field: str, role: str, content: str) -> list[Message]:
    """A list of turns as messages.

    Args:
        row: It may name in `mask`, as NeMo's rows do, the speaker whose turns are not learnt.
        field: Where the list stands.
        role: The field of a turn that names its speaker.
        content: The field of a turn that holds its text, or a list of parts of text; nothing is
            put between the parts.
    Returns:
        The messages, in order; 'trained': False stands in those that are marked so.
    Raises:
        BadRow: a turn cannot be read, or a mark cannot be followed.
    """
    entries = row.get(field)
    if entries is None:
        raise BadRow('missing field', f'the field "{field}" is missing.')
    if not isinstance(entries, list) or not entries:
        raise BadRow('broken field', f'the field "{field}" must be a list of turns.')
    masked = text(row, 'mask', '')
    if masked:
        masked = _speaker(masked)
    messages = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise BadRow('broken field', f'a turn in "{field}" is an object, not {kind(entry)}.')
        bare = len(entry) == 2 and role in entry and content in entry  # as most are, by far
        turn = entry if bare else Fields(entry)
        speaker = _speaker(text(turn, role))
        message: Message = {'role': speaker, 'content': _content(turn, content)}
        messages.append(message)
        if isinstance(turn, Fields):
            _mark(message, turn)
            row.unread_inside += [f'{field}[].{name}' for name in turn.unread()]
        if speaker == masked == 'assistant':
            message['trained'] = False
    return messages


def _speaker(name: str) -> str:
    if name.lower() not in ROLES:
        raise BadRow('unknown role', f'the role {name!r} is unknown: known are {", ".join(ROLES)}.')
    return ROLES[name.lower()]


def _content(turn: dict[str, Any], field: str) -> str:
    parts = turn.get(field)
    if not isinstance(parts, list):
        return text(turn, field)
    texts = []
    for part in parts:
        if not isinstance(part, dict):
            raise BadRow('broken field', f'a part of "{field}" is an object, not {kind(part)}.')
        name = text(part, 'type')
        if name != 'text':
            raise BadRow(
                'image part' if 'image' in name else 'part that is not text',
                f'the field "{field}" has a part of type {name!r}: text alone is learnt from.',
            )
        texts.append(text(part, 'text'))
    return ''.join(texts)


def _mark(message: Message, turn: Fields) -> None:
    """Reads the marks of a turn, which say of an answer whether it is learnt."""
    if (
        message['role'] != 'assistant'
    ):  # is never learnt: only a mark that asks for it says something
        turn.asked |= {name for name in MARKS if name in turn and turn[name] == 1 - MARKS[name]}
        return
    for name in SPANS:
        if turn.get(name):
            raise BadRow(
                'broken mark', f'the field "{name}" marks stretches of a turn: mark whole turns.'
            )
    marks = {name: turn[name] for name in MARKS if turn.get(name) is not None}
    for name, mark in marks.items():
        if mark not in (0, 1):
            raise BadRow(
                'broken mark',
                f'the field "{name}" of a turn must be 0, 1, true or false: '
                'a turn is learnt whole or not at all.',
            )
    if any(mark != MARKS[name] for name, mark in marks.items()):
        message['trained'] = False
