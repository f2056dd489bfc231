"""What a stream of texts shares with some that are known: runs of words, found by rolling hashes.

Words are those of `rouge`: runs of a-z and 0-9, and each Chinese, Japanese or Korean character, in
lower case. So a run of 13 is 13 words of English or 13 characters of Chinese, and punctuation and
white space never matter. Only the known texts are indexed: the stream may be of any length.
"""

import itertools
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from belle_jax.texts.rouge import WORD

SLOTS = np.uint64(22)  # bits of a hash by which most runs of the stream are ruled out
WIDTH = np.uint64(64)
UNKNOWN = 0  # the number of every word that no known text has


class Shared(NamedTuple):
    """What texts of a block share with known ones, an entry for each pair that shares a run.

    Attributes:
        block: Numbers of the texts in the block, int [pairs].
        known: Numbers of the known texts, int [pairs].
        shares: Of the known text's words, those that stand in shared runs, float [pairs].
    """

    block: np.ndarray
    known: np.ndarray
    shares: np.ndarray


class GramIndex:
    """Known texts whose runs of words are looked for."""

    def __init__(self, texts: Sequence[str], size: int, least: int) -> None:
        """Indexes the known texts.

        Args:
            texts: The texts.
            size: Words in a run; a text that has fewer is one run as a whole.
            least: Words of a text below which it is left out.
        """
        self._texts = [folded(text) for text in texts]
        found = [WORD.findall(text) for text in self._texts]
        ordered = dict.fromkeys(word for words in found for word in words)
        self._numbers = {word: number for number, word in enumerate(ordered, UNKNOWN + 1)}
        rng = np.random.default_rng(0)
        self._values = rng.integers(0, 1 << 64, len(ordered) + 1, np.uint64)
        self._times = int(rng.integers(0, 1 << 63)) * 2 + 1
        self.lengths = np.array([len(words) for words in found], np.int64)
        self._sizes = np.where(self.lengths < least, 0, np.minimum(self.lengths, size))
        self._words = [self.numbers(text) for text in texts]
        self._runs = {n: self._indexed(n) for n in sorted({*self._sizes.tolist()} - {0})}

    def numbers(self, text: str) -> list[int]:
        """The words of a text as numbers: UNKNOWN for each that no known text has."""
        found = WORD.findall(folded(text))
        return list(map(self._numbers.get, found, itertools.repeat(UNKNOWN)))

    def search(self, block: Sequence[list[int]]) -> Shared:
        """What texts share with the known ones.

        Args:
            block: The texts as `numbers`, together about a million words.
        Returns:
            The pairs, by text and known text.
        """
        flat = [number for words in block for number in (*words, UNKNOWN)]
        owners = np.repeat(np.arange(len(block)), [len(words) + 1 for words in block])
        triples = [np.empty((0, 3), np.int64)]
        for size, hashes in self._rolled(np.array(flat, np.int64), self._runs):
            triples += self._hits(size, hashes, owners)
        rows, known, places = np.unique(np.concatenate(triples), axis=0).T
        if not len(rows):
            return Shared(rows, known, np.empty(0))
        fresh = np.ones(len(rows), bool)
        fresh[1:] = (rows[1:] != rows[:-1]) | (known[1:] != known[:-1])
        # A run adds its words, less those that it has in common with the one before.
        added = np.minimum(self._sizes[known], np.diff(places, prepend=0))
        added[fresh] = self._sizes[known[fresh]]
        begins = np.flatnonzero(fresh)
        covered = np.add.reduceat(added, begins)
        return Shared(rows[begins], known[begins], covered / self.lengths[known[begins]])

    def stretch(self, words: list[int], known: int) -> str:
        """The longest stretch of shared runs, as the known text has it, in lower case."""
        size, own = int(self._sizes[known]), self._words[known]
        runs = {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
        best, begin, end = (0, 0), 0, 0
        for at in range(len(own) - size + 1):
            if tuple(own[at : at + size]) in runs:
                begin, end = (at if at > end or not end else begin), at + size
                best = max(best, (begin, end), key=lambda pair: pair[1] - pair[0])
        spans = [match.span() for match in WORD.finditer(self._texts[known])]
        return self._texts[known][spans[best[0]][0] : spans[best[1] - 1][1]] if best[1] else ''

    def _hits(self, size: int, hashes: np.ndarray, owners: np.ndarray) -> list[np.ndarray]:
        """(text of the block, known text, place in it) of each run of a size, int [hits, 3]."""
        slots, runs, known, places = self._runs[size]
        at = np.flatnonzero(slots[hashes >> (WIDTH - SLOTS)])
        begins = np.searchsorted(runs, hashes[at])
        counts = np.searchsorted(runs, hashes[at], 'right') - begins
        # Place i of all hits is place i - (where its range begins there) of the range.
        starts = np.repeat(begins - (np.cumsum(counts) - counts), counts)
        order = starts + np.arange(len(starts))
        return [np.stack([np.repeat(owners[at], counts), known[order], places[order]], axis=1)]

    def _indexed(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The runs of a size: occupied slots; hashes, ascending, with text and place of each."""
        found = []
        for known in np.flatnonzero(self._sizes == size).tolist():
            numbers = np.array(self._words[known])
            ((_, hashes),) = self._rolled(numbers, [size])
            found.append((hashes, np.full(len(hashes), known), np.arange(len(hashes))))
        hashes, known, places = (np.concatenate(parts) for parts in zip(*found))
        order = np.argsort(hashes)
        slots = np.zeros(1 << int(SLOTS), bool)
        slots[hashes >> (WIDTH - SLOTS)] = True
        return slots, hashes[order], known[order], places[order]

    def _rolled(
        self, numbers: np.ndarray, sizes: Collection[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Polynomial hashes, modulo 2^64, of all runs of each size."""
        values, power = self._values[numbers], 1
        hashes = np.zeros(len(values) + 1, np.uint64)
        for size in range(1, min(max(sizes, default=0), len(values)) + 1):
            hashes = hashes[:-1] + values[size - 1 :] * np.uint64(power)
            power = power * self._times % (1 << 64)
            if size in sizes:
                yield size, hashes


def folded(text: str) -> str:
    """A text in half-width signs and lower case."""
    return unicodedata.normalize('NFKC', text).lower()
