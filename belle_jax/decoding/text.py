"""From tokens to text as they come: no half characters, no part of a stop string."""

from collections.abc import Sequence
from typing import Any

UNFINISHED = '\ufffd'
"""What tokenizers put where bytes are no UTF-8, so also for the first bytes of a character."""

CONTEXT = 8
"""Tokens of the prompt decoded along, so that an answer's first space is kept or not made up."""


class TextStream:
    """The text of one answer.

    Attributes:
        text: What is certain so far.
        tokens: Those that were taken in, up to the one that completed a stop string.
        stopped: Whether a stop string ended the answer; then `text` ends before it.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int] = (), stop: Sequence[str] = ()):
        """
        Args:
            tokenizer: With `decode` from ids to text, special tokens left out.
            prompt: The tokens before the answer.
            stop: Strings that end it.
        """
        self.text, self.tokens, self.stopped = '', [], False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._context = list(prompt[-CONTEXT:])
        self._before = len(self._decode([]))

    def feed(self, tokens: Sequence[int], last: bool = False) -> str:
        """Takes new tokens in.

        Args:
            tokens: They may be none.
            last: No more will come, so nothing is held back.
        Returns:
            The text that became certain.
        """
        if self.stopped:
            return ''
        before = len(self.text)
        # A text is decoded whole: what a token says may depend on those before it. Decoding is
        # about a microsecond a token, far below the time to make one.
        text = self._decode(self.tokens + list(tokens))
        if self._cut(text) is None:
            self.tokens += tokens
        else:
            # Token by token, so that the cut does not depend on how many came at once.
            for token in tokens:
                self.tokens.append(token)
                text = self._decode(self.tokens)
                if (cut := self._cut(text)) is not None:
                    text, self.stopped = text[:cut], True
                    break
        if not (last or self.stopped):
            text = text.rstrip(UNFINISHED)
            text = text[: len(text) - self._held_back(text)]
        self.text = text if len(text) > before or self.stopped else self.text
        return self.text[before:]

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(self._context + tokens)
        return text[self._before :] if tokens else text

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
