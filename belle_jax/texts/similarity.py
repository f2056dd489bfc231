"""How near a text of a growing pool is to a new one: exact ROUGE-L, without comparing them all.

ROUGE-L F1 of texts with m and n tokens is 2 L / (m + n), where L is their longest common
subsequence. L is at most the number of tokens that they share, counted with repetitions. So a
score of t needs t (m + n) / 2 shared tokens, and lengths within a factor of (2 - t) / t; an
inverted index finds the few texts that have them, and those alone are compared.
Source: Lin, 2004 (ROUGE), section 3; the prefix bound is that of Chaudhuri et al., 2006 (SSJoin).
"""

import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from belle_jax.texts.bm25 import REJECTED, BM25Index
from belle_jax.texts.filters import Row
from belle_jax.texts.rouge import (
    EPSILON,
    NOTHING,
    Match,
    Texts,
    Tokens,
    encoder,
    fewest_shared,
    length_range,
    top,
)

Fits = Callable[[np.ndarray], np.ndarray]
MEASURES = {'rouge': 'ROUGE-L F1', 'bm25': 'BM25'}
ROUGE_REJECTED = 0.7  # as Stanford Alpaca and self-instruct
NEIGHBOURS = 10  # most similar instructions that BELLE's rows list
COMPARED = 512  # texts that are compared for that list, out of a large pool
SAMPLED = 512  # texts of which the average is taken: 0.0015 off for a pool of 52,000
# Of a text's rarest tokens so many are looked up that each candidate must share HITS of them: one
# more posting list costs less than comparing the texts that it rules out.
HITS = 4
FIRST = 64  # texts with the highest bounds that most_similar compares first


class Index:
    """A pool of texts with exact ROUGE-L F1 between a text and all of them.

    Scores are 2 L / (m + n), correctly rounded; a text without tokens scores 0 with every other.
    No text that reaches a threshold is ever missed.
    """

    def __init__(self, tokens: Tokens = 'characters') -> None:
        """Starts an empty pool.

        Args:
            tokens: What is compared: 'characters', 'words', or a function (see `encoder`).
        """
        self._encode = encoder(tokens)
        self._texts = Texts()
        self._same: dict[str, int] = {}
        self._lengths = array.array('q')
        # For each token, which texts have it at least once, twice, ...
        self._postings: dict[str, list[array.array]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> int:
        """Adds a text, one that is in the pool already too; its number: 0, 1, ..."""
        codes = self._encode(text)
        index = self._append(codes)
        for token, count in Counter(codes).items():
            lists = self._postings.setdefault(token, [])
            while len(lists) < count:
                lists.append(array.array('q'))
            for posting in lists[:count]:
                posting.append(index)
        return index

    def prepare(self, texts: Sequence[str]) -> None:
        """Says which texts are compared or added next: an index that hashes saves time by it."""

    def size(self, index: int) -> int:
        """How many tokens text number `index` has."""
        return self._lengths[index]

    def nearest(self, text: str, cutoff: float = 0.0, fits: Fits | None = None) -> Match:
        """The text with the highest score, the earliest one of several.

        Args:
            text: The text to compare.
            cutoff: Only scores of at least this count; the higher, the faster.
            fits: With a cutoff, chooses from the numbers of the texts in question.
        Returns:
            The match; (0.0, -1) where there is none.
        """
        codes = self._encode(text)
        if codes in self._same and codes:
            same = np.array([self._same[codes]])
            if fits is None or fits(same).size:
                return Match(1.0, int(same[0]))
        if cutoff <= 0:
            return (self.most_similar(text, 1) or [NOTHING])[0]
        candidates = self._candidates(codes, cutoff)
        candidates = fits(candidates) if fits else candidates
        scores = self._texts.scores(codes, candidates, cutoff)
        return (top(scores, candidates, 1) or [NOTHING])[0]

    def first_over(self, text: str, threshold: float) -> Match | None:
        """The earliest text that reaches a threshold, which is above 0."""
        codes = self._encode(text)
        candidates = self._candidates(codes, threshold)
        scores = self._texts.scores(codes, candidates, threshold)
        over = np.flatnonzero(scores)
        return Match(float(scores[over[0]]), int(candidates[over[0]])) if over.size else None

    def most_similar(self, text: str, k: int = 10, compare: int | None = None) -> list[Match]:
        """The texts with the highest scores above 0.

        Args:
            text: The text to compare.
            k: How many.
            compare: Compare at most about that many texts, those that could score highest; None: as
                many as needed to be exact, for a long text most of the pool. 512 of 52,000 found
                94 % of the ten nearest, in less than half the time.
        Returns:
            At most k matches, the best first, of equal ones the earliest first.
        """
        codes = self._encode(text)
        found, _ = self._lists(codes)
        if not found or k < 1:
            return []
        shared = np.bincount(_joined(found), minlength=len(self))
        bounds = 2 * shared / (np.frombuffer(self._lengths, np.int64) + len(codes))
        first = max(FIRST, k)
        indices = _highest(bounds, first)
        scores = self._texts.scores(codes, indices)
        # Only a text whose bound reaches the k-th score of these can take its place.
        kept = float(np.sort(scores)[-k]) if len(scores) >= k else 0.0
        over = (bounds >= kept) & (shared > 0)
        over[indices] = False
        rest = np.flatnonzero(over)
        if compare is not None:
            rest = rest[_highest(bounds[rest], max(0, compare - first))]
        scores = np.concatenate([scores, self._texts.scores(codes, rest, kept)])
        return top(scores, np.concatenate([indices, rest]), k)

    def average(self, text: str, sample: int | None = 1024) -> float:
        """The mean score over the pool: how unlike everything else a text is.

        Args:
            text: The text to compare.
            sample: From how many texts, evenly spread over the pool, it is estimated; None: all.
        Returns:
            The mean; 0 for an empty pool.
        """
        if not len(self):
            return 0.0
        count = len(self) if sample is None else min(sample, len(self))
        indices = np.arange(count) * len(self) // count
        return float(self._texts.scores(self._encode(text), indices).mean())

    def _append(self, codes: str) -> int:
        index = len(self._texts)
        self._texts.append(codes)
        self._same.setdefault(codes, index)
        self._lengths.append(len(codes))
        return index

    def _lists(self, codes: str) -> tuple[list[array.array], int]:
        """The posting lists of a text's tokens; how many of its tokens have none."""
        lists = []
        for token, count in Counter(codes).items():
            lists += self._postings.get(token, ())[:count]
        return lists, len(codes) - len(lists)

    def _candidates(self, codes: str, threshold: float) -> np.ndarray:
        """The numbers, ascending, of all texts whose bounds reach the threshold, and few others."""
        if threshold <= 0:
            raise ValueError(f'threshold={threshold} must be above 0: every text reaches it.')
        length = len(codes)
        found, unknown = self._lists(codes)
        shortest, longest = length_range(length, threshold)
        fewest = max(1, int(fewest_shared(length, shortest, threshold)))
        # Whoever shares `fewest` of all tokens shares HITS of any `length - fewest + HITS` of them.
        looked_up = min(length, length - fewest + HITS)
        rarest = sorted(found, key=len)[: max(0, looked_up - unknown)]
        if not rarest:
            return np.empty(0, np.int64)
        shared = np.bincount(_joined(rarest))
        indices = np.flatnonzero(shared >= max(1, fewest - (length - looked_up)))
        sizes = np.frombuffer(self._lengths, np.int64)[indices]
        needed = fewest_shared(length, sizes, threshold) - (length - looked_up)
        keep = (sizes >= shortest) & (sizes <= longest) & (shared[indices] >= needed)
        return indices[keep]


def _joined(lists: list[array.array]) -> np.ndarray:
    return np.frombuffer(b''.join(lists), np.int64)


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the highest positive values, in no order; argpartition of all takes longer."""
    if count < 1 or not values.size:
        return np.empty(0, np.int64)
    places, limit = np.empty(0, np.int64), float(values.max())
    while len(places) < min(count, len(values)) and limit > EPSILON:
        limit *= 0.8
        places = np.flatnonzero(values >= limit)
    if len(places) <= count:
        return places
    return places[np.argpartition(values[places], len(places) - count)[-count:]]


class Similarity:
    """How near a row comes to what is there already."""

    def __init__(
        self, name: str, tokens: Tokens, threshold: float | None, listed: bool, texts: Iterable[str]
    ) -> None:
        """Starts with some texts.

        Args:
            name: 'rouge' or 'bm25'.
            tokens: What is compared.
            threshold: The score that rejects; None: 0.7, or 18 for BM25 as BELLE.
            listed: Whether rows tell their nearest neighbours, as BELLE's do.
            texts: Of the seed tasks.
        Raises:
            ValueError: no row, or every row, would reach the threshold.
        """
        self._pool = BM25Index(tokens) if name == 'bm25' else Index(tokens)
        if threshold is None:
            threshold = REJECTED if name == 'bm25' else ROUGE_REJECTED
        if threshold <= 0 or (name == 'rouge' and threshold > 1):
            raise ValueError(
                f'threshold={threshold:g} cannot tell texts apart: for ROUGE-L it is above 0 and '
                'at most 1, for BM25 above 0. Set --threshold, or --similarity=none to compare '
                'nothing.'
            )
        shown = tokens if isinstance(tokens, str) else 'model tokens'
        self.threshold, self.measure = threshold, f'{MEASURES[name]}, {shown}'
        self.listed = listed
        self._texts: list[str] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Adds what later rows are compared with."""
        self._pool.add(text)
        self._texts.append(text)

    def too_near(self, text: str) -> tuple[str, float] | None:
        """The first text over the threshold, with its score."""
        match = self._pool.first_over(text, self.threshold)
        return match and (self._texts[match.index], round(match.score, 4))

    def fields(self, text: str) -> Row:
        """What BELLE's rows say of their neighbours."""
        if not self.listed or not self._texts:
            return {}
        matches = self._pool.most_similar(text, NEIGHBOURS, COMPARED)
        return {
            'most_similar_instructions': {self._texts[m.index]: round(m.score, 4) for m in matches},
            'avg_similarity_score': round(self._pool.average(text, SAMPLED), 4),
        }
