"""Text in which special tokens are meant where they are spelled, as transformers reads a text."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from belle_jax.data.tokenizer import Piece, Tokenizer

LLAMA_SPACE = (' ', '▁')


class MarkedText:
    """Finds a tokenizer's special tokens in texts.

    Attributes:
        names: Matches each of them.
        flags: What the tokenizer says of each, by its name.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        tokens = tokenizer.backend.get_added_tokens_decoder().values()
        self.flags = {token.content: token for token in tokens if token.special}
        names = sorted(tokenizer.special, key=len, reverse=True)
        self.names = re.compile('|'.join(map(re.escape, names)) or r'(?!)')

    def stretches(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """Begins and ends of texts, and of special tokens with their ids.

        A token with `lstrip` or `rstrip` takes the white space on that side with it, as
        `tokenizers` has it.
        """
        done = 0
        for match in self.names.finditer(text):
            flags = self.flags[match.group()]
            start, end = match.span()
            if flags.single_word and (text[start - 1 : start] + text[end : end + 1]).isalnum():
                continue
            if flags.lstrip:
                start = max(done, len(text[:start].rstrip()))
            if done < start:
                yield done, start, None
            yield match.start(), end, self._tokenizer.special[match.group()]
            done = end
            if flags.rstrip:
                done = len(text) - len(text[end:].lstrip())
        if done < len(text):
            yield done, len(text), None

    def spaced(self, part: str, *, first: bool) -> bool:
        """Whether LLaMA's space stands before a text that begins or follows a special token."""
        dummy = self._tokenizer.dummy
        return (first or dummy.after_special) and not (dummy.once and part.startswith(LLAMA_SPACE))


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """The ids of a whole text, as measurements take it: BOS first, where the tokenizer begins so.

    Args:
        tokenizer: The model's.
        text: Such as the Penn Treebank, in which rare words are `<unk>`.
    Returns:
        int32 [tokens].
    """
    return encode_batch(tokenizer, [text])[0]


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """`encode` of many texts, on all cores."""
    marked, examples = MarkedText(tokenizer), []
    for text in texts:
        pieces = []
        if tokenizer.adds_bos and tokenizer.bos_id is not None:
            pieces.append(Piece(tokenizer.bos_id))
        for start, end, index in marked.stretches(text):
            part = text[start:end]
            spaced = marked.spaced(part, first=start == 0)
            pieces.append(Piece(part if index is None else index, continued=not spaced))
        examples.append(pieces)
    tokens, _, sizes = tokenizer.assemble(examples)
    return np.split(tokens, np.cumsum(sizes))[:-1]
