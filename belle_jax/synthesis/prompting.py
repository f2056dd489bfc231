"""Prompt texts: reading them, filling their placeholders, and drawing what differs per request.

A draw depends on the seed, the request's index and the kind alone, on every machine and Python:
only `random()` itself is promised to stay the same between Python's versions, so the rest is built
on it here. A prompt that changed would be asked, and paid for, again.
"""

import functools
import hashlib
import importlib.resources
import pathlib
import random
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar('T')
PROMPTS = importlib.resources.files('belle_jax.synthesis') / 'prompts'
PLACEHOLDER = re.compile(r'\{([a-z_]+)\}')
# In BELLE's prompt file line ends stand as the two characters \ and n, some followed by a
# backslash that continues the line, as in source code; they went to the model as they were.
WRITTEN_LINE_END = re.compile(r'\\n[ \t]*\\?(?:\r?\n)?')


class Draw:
    """A generator of choices, the same for the same seed, index and kind."""

    def __init__(self, seed: int, index: int, kind: str) -> None:
        digest = hashlib.sha256(f'{seed}\n{index}\n{kind}'.encode()).digest()
        self._random = random.Random(int.from_bytes(digest, 'big')).random

    def number(self, fewest: int, most: int) -> int:
        """A whole number of fewest..most, both included."""
        return fewest + int(self._random() * (most - fewest + 1))

    def one(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.number(0, len(items) - 1)]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different ones of the items, or all of them if there are fewer, shuffled."""
        left = list(range(len(items)))
        chosen = []
        for _ in range(min(count, len(left))):
            at = self.number(0, len(left) - 1)
            left[at], left[-1] = left[-1], left[at]
            chosen.append(items[left.pop()])
        return chosen


@functools.cache
def own(name: str) -> str:
    """The text of a file under prompts/."""
    return (PROMPTS / f'{name}.txt').read_text(encoding='utf-8')


@functools.cache
def lines(name: str) -> tuple[str, ...]:
    """The lines of a list under prompts/, without empty ones and comments (#)."""
    found = (line.strip() for line in own(name).splitlines())
    return tuple(line for line in found if line and not line.startswith('#'))


def read(name: str, file: str, needed: Iterable[str]) -> str:
    """A kind's prompt: a person's file, or our own text.

    Args:
        name: Of our own text.
        file: A person's file; empty: none.
        needed: Placeholders without which the prompt makes no sense.
    Returns:
        The text, with placeholders.
    Raises:
        ValueError: the file is not there, not UTF-8, empty, or lacks a placeholder.
    """
    if not file:
        return own(name)
    try:
        text = pathlib.Path(file).read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        reason = 'is not UTF-8' if isinstance(error, UnicodeDecodeError) else 'cannot be read'
        raise ValueError(
            f'--prompt_file={file} {reason} ({error}): give a UTF-8 text file.'
        ) from error
    text = WRITTEN_LINE_END.sub('\n', text)
    if not text.strip():
        raise ValueError(f'--prompt_file={file} is empty: give a file with a prompt.')
    missing = [f'{{{field}}}' for field in needed if f'{{{field}}}' not in text]
    if missing:
        raise ValueError(
            f'--prompt_file={file} lacks {" and ".join(missing)}: this kind of data puts what each '
            'request is about there. Add it where it belongs.'
        )
    return text


def fill(text: str, **values: object) -> str:
    """The text with its placeholders filled.

    Braces that are not a known placeholder stay, and what is filled in is not searched again: rows
    may hold both.

    Args:
        text: With placeholders such as {topic}.
        values: Their values.
    Returns:
        The prompt.
    """
    return PLACEHOLDER.sub(
        lambda match: str(values[match[1]]) if match[1] in values else match[0], text
    )
