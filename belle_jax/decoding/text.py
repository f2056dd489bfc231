"""From tokens to text as they come: no half characters, no part of a stop string."""

from collections.abc import Sequence
from typing import Any

UNFINISHED = '\ufffd'
"""What tokenizers put where bytes are not UTF-8, so also for the first bytes of a character."""

CONTEXT = 8
"""Tokens of the prompt decoded along, so that an answer's first space is kept or not made up."""

WINDOW = 6
"""Tokens that are decoded together; more only where they say too little."""


class TextStream:
    """The text of one answer, of which each token is decoded with a few before it, not with all.

    Attributes:
        tokens: Those that were taken in, up to the one that completed a stop string.
        stopped: Whether a stop string ended the answer; then `text` ends before it.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int] = (), stop: Sequence[str] = ()):
        """Takes what decodes ids, the tokens before the answer, and strings that end it."""
        self.tokens, self.stopped = [], False
        self._decode, self._stop = tokenizer.decode, tuple(stop)
        self._certain: list[str] = []
        self._window = list(prompt[-CONTEXT:])  # the newest tokens
        self._told = len(self._decode(self._window))  # characters of theirs that are certain

    @property
    def text(self) -> str:
        """What is certain so far."""
        self._certain = [''.join(self._certain)]
        return self._certain[0]

    def feed(self, tokens: Sequence[int], last: bool = False) -> str:
        """Takes new tokens in.

        Args:
            tokens: They may be none.
            last: No more will come, so nothing is held back.
        Returns:
            The text that became certain.
        """
        # One by one, so that the text and its end do not depend on how many came at once.
        new = [self._take(token) for token in tokens]
        if last and not self.stopped:
            new.append(self._decode(self._window)[self._told :])
            self._told += len(new[-1])
        self._certain += new
        return ''.join(new)

    def _take(self, token: int) -> str:
        """The text that one more token makes certain."""
        if self.stopped:
            return ''
        self.tokens.append(token)
        self._window.append(token)
        decoded = self._decode(self._window)
        text = decoded[self._told :]  # what is certain holds no part of a stop string
        cut = self._cut(text)
        self.stopped = cut is not None
        if cut is None:
            # A character has four bytes at most, so more than three broken ones are not its
            # beginning.
            end = text[-3:]
            cut = len(text) - len(end) + len(end.rstrip(UNFINISHED))
            cut -= self._held_back(text[:cut])
        self._told += cut
        if len(self._window) >= WINDOW:
            self._shorten(decoded)
        return text[:cut]

    def _shorten(self, decoded: str) -> None:
        """Forgets the older half of the window, unless that changes what is not certain yet.

        A cut spoils the beginning at most: a space is stripped there, and a character whose first
        byte is gone becomes up to three broken ones.
        """
        window = self._window[len(self._window) // 2 :]
        shorter, uncertain = self._decode(window), decoded[self._told :]
        told = len(shorter) - len(uncertain)
        spoilt = 3 if shorter.startswith(UNFINISHED) else 0
        if told > spoilt and shorter.endswith(uncertain):
            self._window, self._told = window, told

    def _cut(self, text: str) -> int | None:
        """Where the first stop string begins."""
        found = [i for i in (text.find(s) for s in self._stop) if i >= 0]
        return min(found) if found else None

    def _held_back(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        most = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), most, -1):
                if text.endswith(stop[:size]):
                    most = size
                    break
        return most
