"""What all kinds of data have in common: a prompt for each index, and a parser of replies."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from belle_jax.synthesis import prompting
from belle_jax.synthesis.parsing import CUT, Candidate, plain, refused
from belle_jax.synthesis.settings import Settings
from belle_jax.texts.filters import Row, Rule
from belle_jax.texts.language import is_refusal

if TYPE_CHECKING:
    from belle_jax.api.request import Reply


class Kind(abc.ABC):
    """One kind of data.

    A kind sets `name` and, where they differ, the other class attributes, and writes `prompt` and
    `read`.

    Attributes:
        name: As in --kind; also of its text under prompts/.
        layout: Of its rows: 'alpaca' or 'conversations'.
        needed: Placeholders that a person's own prompt must have.
        stop: Strings that end a reply.
        settings: What it was made with.
        rules: The filters of its rows, in order.
    """

    name: ClassVar[str]
    layout: ClassVar[str] = 'alpaca'
    needed: ClassVar[tuple[str, ...]] = ()
    stop: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: Settings) -> None:
        """Reads the prompt.

        Args:
            settings: The run's choices.
        Raises:
            ValueError: something that this kind needs is missing or unfit.
        """
        self.settings = settings
        self.text = prompting.read(self.prompt_name(), settings.prompt_file, self.needed)
        self.rules = self.filters()

    def prompt_name(self) -> str:
        """Which text under prompts/ it asks with."""
        return self.name

    def filters(self) -> tuple[Rule, ...]:
        """The rules that its rows have to pass, in order."""
        return ()

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
        """The prompt of one request, a pure function of settings and index.

        Args:
            index: The request's number, from 0.
        Returns:
            The text to send.
        """

    @abc.abstractmethod
    def read(self, text: str, reply: Reply, cut: bool) -> Iterable[Candidate]:
        """The pieces of a reply.

        Args:
            text: What it says, with plain line ends and never empty.
            reply: The whole reply.
            cut: Whether it ended early.
        Returns:
            Rows and rejected pieces.
        """

    def body(self, index: int) -> dict[str, Any]:
        """The request of an index, exactly as it is sent."""
        return self.settings.body(self.prompt(index), self.stop)

    def parse(self, reply: Reply) -> list[Candidate]:
        """The rows and rejected pieces of a reply, in order.

        Args:
            reply: As the server gave it, or the error with which it was given up.
        Returns:
            At least one candidate: what gives no row says why.
        """
        if reply.error:
            return [refused('request given up', reply.error)]
        if not reply.text.strip():
            return [refused('empty reply', f'finish reason: {reply.finish_reason}')]
        candidates = list(self.read(plain(reply.text), reply, reply.finish_reason in CUT))
        if all(candidate.row is None for candidate in candidates) and is_refusal(reply.text):
            return [refused('refusal', reply.text)]
        return candidates or [refused('no labels', reply.text)]

    def compared(self, row: Row) -> str:
        """The text by which two rows of this kind are similar; empty: rows are not compared."""
        return row.get('instruction', '')

    def draw(self, index: int) -> prompting.Draw:
        """The generator of everything that differs from request to request."""
        return prompting.Draw(self.settings.seed, index, self.name)
