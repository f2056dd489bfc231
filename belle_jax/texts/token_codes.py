"""Texts as strings with one character a token, the form in which they are compared."""

import re
from collections.abc import Callable, Hashable, Iterable

Tokens = str | Callable[[str], Iterable[Hashable]]

KINDS = ('characters', 'words')
# rouge_score's words are runs of a-z and 0-9 in lower case, and nothing else. Chinese, Japanese and
# Korean have none of them, so there each character is a word: two such texts would be empty.
WORD = re.compile(
    '[a-z0-9]+|[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff'
    '\U00020000-\U0003ffff]'
)
SURROGATES = 0xD800, 0x800  # where code points that are not characters begin, and how many
MOST = 0x110000 - SURROGATES[1]


def encoder(tokens: Tokens = 'characters') -> Callable[[str], str]:
    """A function that turns texts into code strings; equal tokens give equal characters.

    Args:
        tokens: 'characters' (in lower case, without white space: for Chinese), 'words' (as
            rouge_score's: for English), or a function from a text to its tokens, such as a
            model's tokenizer.
    Returns:
        From a text to a string of as many characters as the text has tokens.
    Raises:
        ValueError: the name is unknown.
    """
    if tokens == 'characters':
        return lambda text: ''.join(text.lower().split())
    if tokens == 'words':
        return _Codes(lambda text: WORD.findall(text.lower()))
    if callable(tokens):
        return _Codes(tokens)
    raise ValueError(f'tokens={tokens!r} is unknown: choose {" or ".join(KINDS)}.')


class _Codes:
    """Tokens as code points in the order in which they are first met.

    Frequent tokens come early and so get small code points, which compare fastest.
    """

    def __init__(self, split: Callable[[str], Iterable[Hashable]]) -> None:
        self._split = split
        self._codes: dict[Hashable, str] = {}

    def __call__(self, text: str) -> str:
        codes = self._codes
        return ''.join([codes.get(token) or self._new(token) for token in self._split(text)])

    def _new(self, token: Hashable) -> str:
        number = len(self._codes)
        if number >= MOST:
            raise ValueError(
                f'the texts have more than {MOST:,} different words, which is more than can be '
                'told apart: compare characters, or the tokens of a model.'
            )
        begin, size = SURROGATES
        return self._codes.setdefault(token, chr(number if number < begin else number + size))
