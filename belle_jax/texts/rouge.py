"""Texts to compare, and their exact ROUGE-L F1: 2 L / (m + n), L the longest common subsequence.

What is compared are code strings, with one character a token. Scores are computed from integers,
so a tie with a threshold is a tie. rouge_score multiplies rounded fractions, and so puts one tie
with 0.7 in twenty-five just below it.
Source: Lin, 2004 (ROUGE), section 3.
"""

import math
import operator
import re
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

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
FEW = 12  # texts that are compared one by one: below this a call of `cdist` costs more
EPSILON = 1e-9  # bounds are rounded so that an exact tie stays in


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
        return _coded(lambda text: WORD.findall(text.lower()))
    if callable(tokens):
        return _coded(tokens)
    raise ValueError(f'tokens={tokens!r} is unknown: choose {" or ".join(KINDS)}.')


def _coded(split: Callable[[str], Iterable[Hashable]]) -> Callable[[str], str]:
    codes = _Codes()
    return lambda text: ''.join([codes[token] for token in split(text)])


class _Codes(dict[Hashable, str]):
    """Tokens as code points in the order in which they are first met.

    Frequent tokens come early and so get small code points, which compare fastest.
    """

    def __missing__(self, token: Hashable) -> str:
        number = len(self)
        if number >= MOST:
            raise ValueError(
                f'the texts have more than {MOST:,} different words, which is more than can be '
                'told apart: compare characters, or the tokens of a model.'
            )
        begin, size = SURROGATES
        return self.setdefault(token, chr(number if number < begin else number + size))


class Match(NamedTuple):
    """A text of the pool: its score, and its number in the order of `add`."""

    score: float
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]


NOTHING = Match(0.0, -1)


class _Narrow(dict[int, int]):
    """For `str.translate`: each code point to one of 256, scattered, in which rapidfuzz is fast."""

    def __missing__(self, code: int) -> int:
        self[code] = (code * 0x9E3779B1 >> 16) & 0xFF
        return self[code]


NARROW = _Narrow()


def length_range(length: int, threshold: float) -> tuple[int, int]:
    """The fewest and most tokens of a text that can reach a score with one of `length` tokens."""
    shortest = math.ceil(threshold / (2 - threshold) * length - EPSILON)
    return shortest, math.floor((2 - threshold) / threshold * length + EPSILON)


def fewest_shared(length: int, other: int | np.ndarray, threshold: float) -> np.ndarray:
    """How many tokens texts of two lengths must share to reach a score."""
    return np.ceil(threshold * (length + other) / 2 - EPSILON)


class Texts:
    """Code strings to compare with, and each in a narrow form that compares several times faster.

    The narrow form has 256 characters, in which what is equal stays equal. So it never scores lower
    than the text itself, and rules out most texts before they are compared exactly.
    """

    def __init__(self) -> None:
        self.codes: list[str] = []
        self._narrow: list[str] = []

    def __len__(self) -> int:
        return len(self.codes)

    def append(self, codes: str) -> None:
        """Adds a code string."""
        self.codes.append(codes)
        self._narrow.append(codes.translate(NARROW))

    def scores(self, codes: str, indices: np.ndarray, cutoff: float = 0.0) -> np.ndarray:
        """Exact scores of some of the texts.

        Args:
            codes: The code string to compare.
            indices: The texts' numbers.
            cutoff: Scores below it become 0; the higher, the faster.
        Returns:
            float64, one for each number.
        """
        if cutoff <= 0 or len(indices) < FEW:
            return _scores(codes, self.codes, indices, cutoff)
        scores = _scores(codes.translate(NARROW), self._narrow, indices, cutoff)
        left = np.flatnonzero(scores)
        scores[left] = _scores(codes, self.codes, indices[left], cutoff)
        return scores


def top(scores: np.ndarray, indices: np.ndarray, k: int) -> list[Match]:
    """The k best scores above 0, the best first, of equal ones the earliest text first."""
    order = np.lexsort((indices, -scores))[:k]
    return [Match(float(scores[i]), int(indices[i])) for i in order if scores[i] > 0]


def _scores(codes: str, texts: list[str], indices: np.ndarray, cutoff: float) -> np.ndarray:
    if not len(indices) or not codes:
        return np.zeros(len(indices))
    get = operator.itemgetter(*indices.tolist())
    chosen = get(texts) if len(indices) > 1 else [get(texts)]
    lengths = np.fromiter(map(len, chosen), np.int64, len(chosen)) + len(codes)
    # The distance is m + n - 2 L. Integers, so that no rounding moves a tie over the threshold.
    most = math.floor((1 - cutoff) * float(lengths.max()) + EPSILON)
    if len(chosen) < FEW:
        distances = np.array([Indel.distance(codes, t, score_cutoff=most) for t in chosen])
    else:
        distances = process.cdist(
            [codes], chosen, scorer=Indel.distance, score_cutoff=most, dtype=np.int32
        )[0]
    scores = (lengths - distances) / lengths
    scores[(scores < cutoff) | (distances > most)] = 0.0
    return scores
