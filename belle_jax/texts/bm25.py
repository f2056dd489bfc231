"""BM25 as BELLE used it to reject instructions, over a pool that grows.

A score is the sum, over the tokens of the new text with repetitions, of

    idf * f * (k1 + 1) / (f + k1 * (1 - b + b * length / average length)),

f being how often a text of the pool has the token, and idf = ln(N - n + 0.5) - ln(n + 0.5) for a
token in n of N texts; where that is negative, a quarter of the mean idf of all known tokens.
Scores have no upper limit: they grow with the length of the text and with the pool. BELLE rejects a
text whose highest score is over 18, a bound for instructions of a few dozen BLOOM tokens.
Source: LianjiaTech/BELLE, data/1.5M, through gensim 3's `summarization.bm25`; Robertson and
Zaragoza, 2009, section 3. BELLE never added what it kept; here `add` does.
"""

import array
import math
from collections import Counter

import numpy as np

from belle_jax.texts.rouge import NOTHING, Match, Tokens, encoder, top

K1 = 1.5
B = 0.75
FLOOR = 0.25  # of the mean idf, for tokens that more than half of the texts have
REJECTED = 18.0  # BELLE rejects what scores more


class BM25Index:
    """A pool of texts, used as `similarity.Index` is: with BM25 scores, always of all of them."""

    def __init__(self, tokens: Tokens = 'characters') -> None:
        """Starts an empty pool.

        Args:
            tokens: What is counted: 'characters', 'words', or a function (see `encoder`); BELLE
                counted BLOOM's tokens.
        """
        self._encode = encoder(tokens)
        self._lengths = array.array('I')
        self._total = 0
        # For each token: which texts have it, and how often each.
        self._postings: dict[str, tuple[array.array, array.array]] = {}
        self._mean_idf: float | None = None
        # A new text is asked about several times: is it too near, to what, how near on average.
        self._last = '', -1, np.empty(0)

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, text: str) -> int:
        """Adds a text; all scores change a little, since N, n and the average length do."""
        codes, index = self._encode(text), len(self)
        self._lengths.append(len(codes))
        self._total += len(codes)
        self._mean_idf = None
        for token, count in Counter(codes).items():
            texts, counts = self._postings.setdefault(token, (array.array('I'), array.array('I')))
            texts.append(index)
            counts.append(count)
        return index

    def scores(self, text: str) -> np.ndarray:
        """The scores of all texts: float64 [len(self)]; 0 for those that share no token with it."""
        if self._last[:2] != (text, len(self)):
            self._last = text, len(self), self._scores(text)
        return self._last[2]

    def _scores(self, text: str) -> np.ndarray:
        counts = Counter(self._encode(text))
        known = [token for token in counts if token in self._postings]
        if not known:
            return np.zeros(len(self))
        sizes = [len(self._postings[token][0]) for token in known]
        weights = np.array([counts[t] * self._idf(n) * (K1 + 1) for t, n in zip(known, sizes)])
        texts = np.frombuffer(b''.join([self._postings[t][0] for t in known]), np.uint32)
        often = np.frombuffer(b''.join([self._postings[t][1] for t in known]), np.uint32)
        lengths = np.frombuffer(self._lengths, np.uint32)
        long = K1 * (1 - B + B * len(self) / self._total * lengths)
        terms = np.repeat(weights, sizes)
        terms *= often / (often + long[texts])
        return np.bincount(texts, terms, len(self))

    def nearest(self, text: str, cutoff: float = 0.0) -> Match:
        scores = self.scores(text)
        index = int(scores.argmax()) if scores.size else -1
        if index < 0 or scores[index] <= 0 or scores[index] < cutoff:
            return NOTHING
        return Match(float(scores[index]), index)

    def first_over(self, text: str, threshold: float) -> Match | None:
        scores = self.scores(text)
        over = np.flatnonzero(scores >= threshold)
        return Match(float(scores[over[0]]), int(over[0])) if over.size else None

    def most_similar(self, text: str, k: int = 10, compare: int | None = None) -> list[Match]:
        scores = self.scores(text)
        indices = np.flatnonzero(scores > 0)
        if len(indices) > k:
            # All that tie with the k-th stay in, so that `top` can take the earliest.
            least = np.partition(scores[indices], len(indices) - k)[len(indices) - k]
            indices = indices[scores[indices] >= least]
        return top(scores[indices], indices, k)

    def average(self, text: str, sample: int | None = None) -> float:
        """The mean score over the whole pool, BELLE's avg_similarity_score."""
        return float(self.scores(text).mean()) if len(self) else 0.0

    def _idf(self, texts: int) -> float:
        idf = math.log(len(self) - texts + 0.5) - math.log(texts + 0.5)
        return idf if idf >= 0 else FLOOR * self._mean()

    def _mean(self) -> float:
        """The mean idf of all tokens, from how many there are of each number of texts."""
        if self._mean_idf is None:
            sizes = Counter([len(texts) for texts, _ in self._postings.values()])
            n = np.fromiter(sizes, np.float64)
            idf = np.log(len(self) - n + 0.5) - np.log(n + 0.5)
            tokens = np.fromiter(sizes.values(), np.float64)
            self._mean_idf = float(idf @ tokens / tokens.sum())
        return self._mean_idf
