"""What all kinds of data have in common: a prompt for each index, and a parser of replies.

Prompts are texts with placeholders, and what differs from request to request is drawn. A draw
depends on the seed, the request's index and the kind alone, on every machine and Python: only
`random()` itself is promised to stay the same between Python's versions, so the rest is built on it
here. A prompt that changed would be asked, and paid for, again.
"""

import abc
import functools
import hashlib
import pathlib
import random
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from belle_jax.api import Reply, is_whole
from belle_jax.disk import sentence
from belle_jax.synthesis.parsing import Candidate, plain, refused
from belle_jax.synthesis.settings import Settings
from belle_jax.texts.cleaning import cleaning
from belle_jax.texts.filters import NAMES_A_MODEL, Row, Rule
from belle_jax.texts.language import is_refusal

T = TypeVar('T')
PROMPTS = pathlib.Path(__file__).parents[1] / 'prompts'
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


def own(name: str, language: str = 'zh') -> pathlib.Path:
    """The file under prompts/ in a language: the English one stands beside the Chinese."""
    path = PROMPTS / name
    return path if language == 'zh' else path.with_stem(f'{path.stem}_{language}')


@functools.cache
def lines(name: str, language: str = 'zh') -> tuple[str, ...]:
    """The lines of a list under prompts/, without empty ones and comments (#)."""
    text = own(f'{name}.txt', language).read_text('utf-8')
    found = (line.strip() for line in text.splitlines())
    return tuple(line for line in found if line and not line.startswith('#'))


def _read_prompt(own_file: pathlib.Path, file: str, needed: Iterable[str]) -> str:
    """A kind's prompt: a person's file with the needed placeholders, or else our own text."""
    if not file:
        return own_file.read_text('utf-8')
    try:
        text = pathlib.Path(file).read_text(encoding='utf-8-sig')
    except OSError as error:
        raise ValueError(sentence(error, f'--prompt_file={file} cannot be read')) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f'--prompt_file={file} is not UTF-8 ({error}): give a UTF-8 text file.'
        ) from error
    text = WRITTEN_LINE_END.sub('\n', text)
    if not text.strip():
        raise ValueError(f'--prompt_file={file} is empty: give a file with a prompt.')
    if missing := [f'{{{field}}}' for field in needed if f'{{{field}}}' not in text]:
        raise ValueError(
            f'--prompt_file={file} lacks {" and ".join(missing)}: this kind of data puts what each '
            'request is about there. Add it where it belongs.'
        )
    return text


def fill(text: str, **values: object) -> str:
    """The text with its placeholders, such as {topic}, filled.

    Braces that are not a known placeholder stay, and what is filled in is not searched again: rows
    may hold both.
    """
    return PLACEHOLDER.sub(
        lambda match: str(values[match[1]]) if match[1] in values else match[0], text
    )


class Kind(abc.ABC):
    """One kind of data.

    A kind sets `name` and, where they differ, the other class attributes, and writes `prompt` and
    `read`.

    Attributes:
        name: As in --kind; also of its texts under prompts/, one for each language.
        needed: Placeholders that a person's own prompt must have.
        stop: Strings that end a reply.
        first: Filters before the general ones of `cleaning`.
        checks: Filters after them.
        settings: What it was made with.
        rules: The filters of its rows, in order.
    """

    name: ClassVar[str]
    needed: ClassVar[tuple[str, ...]] = ()
    stop: ClassVar[tuple[str, ...]] = ()
    first: ClassVar[tuple[Rule, ...]] = (NAMES_A_MODEL,)
    checks: ClassVar[tuple[Rule, ...]] = ()

    def __init__(self, settings: Settings) -> None:
        """Reads the prompt.

        Raises:
            ValueError: something that this kind needs is missing or unfit.
        """
        self.settings = settings
        own_file = own(f'{self.name}.txt', settings.language)
        self.text = _read_prompt(own_file, settings.prompt_file, self.needed)
        self.rules = self.filters()

    def say(self, zh: T, en: T) -> T:
        """The one of the two that is in the language of the run."""
        return zh if self.settings.language == 'zh' else en

    def lines(self, name: str) -> tuple[str, ...]:
        """A list under prompts/, in the language of the run."""
        return lines(name, self.settings.language)

    def filters(self) -> tuple[Rule, ...]:
        """The rules that its rows have to pass, in order."""
        run = self.settings
        return (*self.first, *cleaning(run.language, run.longest_answer), *self.checks)

    @property
    def requests(self) -> int | None:
        """How many requests there are to make; None: as many as one likes."""
        return None

    @property
    def most_rows(self) -> int:
        """Rows that a reply gives if all goes well, as its prompt asks."""
        return 1

    @abc.abstractmethod
    def prompt(self, index: int) -> str:
        """The text to send with request number `index`: a pure function of settings and index."""

    @abc.abstractmethod
    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        """The rows and rejected pieces of a reply.

        Args:
            text: What it says, with plain line ends and never empty.
            reply: The whole reply.
            cut: Whether it ended early.
        """

    def body(self, index: int) -> dict[str, Any]:
        """The request of an index, exactly as it is sent."""
        return self.settings.body(self.prompt(index), self.stop)

    def parse(self, reply: Reply, told: bool = False) -> list[Candidate]:
        """The rows and rejected pieces of a reply, in order.

        Args:
            reply: As the server gave it, or the error with which it was given up.
            told: Whether the server has given a reply before this one a finish reason.
        Returns:
            At least one candidate: what gives no row says why.
        """
        if reply.error:
            return [refused('request given up', reply.error)]
        cut = not is_whole(reply.finish_reason, told)
        if not reply.text.strip():
            reason = 'truncated' if cut and reply.thoughts else 'empty reply'
            return [refused(reason, f'finish reason: {reply.finish_reason}; {reply.thoughts}')]
        if reply.finish_reason == 'refusal':
            return [refused('refusal', reply.text)]
        candidates = list(self.read(plain(reply.text), reply, cut))
        if all(candidate.row is None for candidate in candidates) and is_refusal(reply.text):
            return [refused('refusal', reply.text)]
        return candidates or [refused('no labels', reply.text)]

    def compared(self, row: Row) -> str:
        """The text by which two rows of this kind are similar; empty: rows are not compared."""
        return row.get('instruction', '')

    def draw(self, index: int) -> Draw:
        """The generator of everything that differs from request to request."""
        return Draw(self.settings.seed, index, self.name)


KINDS: dict[str, type[Kind]] = {}  # by name, as `kinds/__init__.py` lists them


def make(name: str, settings: Settings) -> Kind:
    """The kind of this name, ready to ask and to parse.

    Raises:
        ValueError: there is no such kind, or it lacks something that it needs.
    """
    if name not in KINDS:
        raise ValueError(f'kind={name!r} is unknown: set --kind to one of {", ".join(KINDS)}.')
    return KINDS[name](settings)
