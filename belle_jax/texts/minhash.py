"""Near-duplicates among millions of texts: MinHash finds candidates, exact ROUGE-L decides.

What a score of t needs, t (m + n) / 2 shared tokens, is a Jaccard similarity J of at least
t / (2 - t) of the two texts' token sets, in which the second 的 is another element than the first.
So the least hashes of these sets are taken, in bands of `rows`; whatever agrees in a band is a
candidate. A pair with a score of t is found with a probability of at least 1 - (1 - J^rows)^bands,
wherever the two differ: shingles, which are usual, promise nothing of the kind for a subsequence.

datasketch's MinHashLSH was measured with the same bands: its dictionaries of Python objects take
20 kB a text, 20 GB for a million, and it takes one text at a time in 0.6 ms. Here all bands of all
texts are a few sorted arrays, 8 bytes a band, and texts come in blocks.
Source: Broder, 1997 (MinHash); Leskovec, Rajaraman and Ullman, section 3.4 (bands).
"""

import math
from collections.abc import Sequence

import numpy as np

from belle_jax.texts.rouge import Match, length_range, top
from belle_jax.texts.similarity import Fits, Index

RECALL = 0.95  # at the threshold itself, in the worst case; at 0.7 it is 0.9999 for scores of 0.8
BLOCK = 1024  # texts that are hashed at once when another pool is taken over
PAIRS = 1 << 22  # candidates, with repetitions, that are held at once
GROWTH = 4  # a sorted array is merged with the next one unless it is this many times larger
MOST_BANDS = 72
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd and irregular: multiplying by it scatters bits
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
_Prepared = tuple[np.ndarray, np.ndarray, np.ndarray]


class MinHashIndex(Index):
    """A pool for more texts than `Index` is fast for; it may miss a few, and never invents one.

    It looks for scores of at least its threshold. `prepare` should be given a block of the texts
    that come next: hashing them together is what makes it fast.
    """

    def __init__(self, threshold: float) -> None:
        """Starts an empty pool, of characters.

        Args:
            threshold: The least score that is looked for.
        Raises:
            ValueError: no affordable number of bands has a probability of RECALL to find it.
        """
        super().__init__()
        self.threshold = threshold
        self.bands = Bands(threshold, RECALL, seed=0)
        # Sorted arrays of a band's hash (high half) and a text's number (low half); each new one
        # is small, and they are merged before they become many.
        self._runs: list[np.ndarray] = []
        self._waiting: list[tuple[int, np.ndarray]] = []
        # The texts that come next, and of each: the hashes of its bands, which texts of the arrays
        # and which of these texts agree with it in a band.
        self._block: list[str] = []
        self._prepared: dict[str, _Prepared] = {}

    @classmethod
    def over(cls, index: Index, threshold: float) -> 'MinHashIndex':
        """A pool with the texts of another one, which must not be used any more."""
        made = cls(threshold)
        made._encode = index._encode
        for begin in range(0, len(index), BLOCK):
            block = index._texts.codes[begin : begin + BLOCK]
            made._prepare_codes(block)
            for codes in block:
                made._add_codes(codes)
        return made

    def add(self, text: str) -> int:
        return self._add_codes(self._encode(text))

    def nearest(self, text: str, cutoff: float = 0.0, fits: Fits | None = None) -> Match:
        """The nearest text that reaches the cutoff and the pool's threshold."""
        return super().nearest(text, max(cutoff, self.threshold), fits)

    def most_similar(self, text: str, k: int = 10, compare: int | None = None) -> list[Match]:
        """The nearest of those texts that agree in a band: mostly those near the threshold."""
        codes = self._encode(text)
        indices = self._candidates(codes, self.threshold)
        if codes in self._same:
            indices = np.union1d(indices, [self._same[codes]])
        return top(self._texts.scores(codes, indices), indices, k)

    def prepare(self, texts: Sequence[str]) -> None:
        """Hashes the texts that are compared or added next, about a thousand, all at once."""
        self._prepare_codes([self._encode(text) for text in texts])

    def _add_codes(self, codes: str) -> int:
        hashes, _, _ = self._known(codes)
        index = self._append(codes)
        if codes:
            self._waiting.append((index, hashes))
        return index

    def _known(self, codes: str) -> _Prepared:
        if codes not in self._prepared:
            self._prepare_codes([codes])
        return self._prepared[codes]

    def _candidates(self, codes: str, threshold: float) -> np.ndarray:
        _, stored, fellows = self._known(codes)
        # Of the block's texts only those that were added meanwhile.
        added = [self._same.get(self._block[place], -1) for place in fellows.tolist()]
        added = [index for index in added if index >= 0]
        return np.union1d(stored, np.array(added, np.int64)) if added else stored

    def _prepare_codes(self, block: Sequence[str]) -> None:
        # Only here do texts move into the arrays, so that nothing falls between the two.
        self._flush()
        self._block = [codes for codes in dict.fromkeys(block) if codes]
        # An empty text has no least hash; it resembles nothing.
        empty = np.empty(0, np.int64)
        self._prepared = {'': (np.empty(0, np.uint32), empty, empty)}
        if self._block:
            hashes = self.bands.hashes(self._block)
            stored, fellows = self._agreeing(hashes)
            for number, codes in enumerate(self._block):
                self._prepared[codes] = hashes[:, number], stored[number], fellows[number]

    def _agreeing(self, hashes: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For each text of the block, who agrees with it in a band: in the arrays, in the block."""
        # The block is a sorted array like the others, of its texts' places in it.
        texts = hashes.shape[1]
        places = np.arange(texts, dtype=np.uint64)
        own = np.sort(hashes.astype(np.uint64) << HALF | places, axis=None)
        owners, wanted = (own & LOW).astype(np.int64), own & ~LOW
        lengths = np.fromiter(map(len, self._block), np.int64, texts)
        fellows = self._pairs(owners, wanted, own, lengths)
        # An owner agrees with itself, and most with nobody else.
        fellows = [pairs[pairs >> 32 != pairs & 0xFFFFFFFF] for pairs in fellows]
        lengths = np.frombuffer(self._lengths, np.int64)
        stored = [p for run in self._runs for p in self._pairs(owners, wanted, run, lengths)]
        return _grouped(stored, texts), _grouped(fellows, texts)

    def _pairs(
        self, owners: np.ndarray, wanted: np.ndarray, run: np.ndarray, lengths: np.ndarray
    ) -> list[np.ndarray]:
        """Who of the block agrees with whom of the sorted array `run`, as owner << 32 | other.

        `wanted` has a hash of each owner, in the high half, ascending; `lengths` are those of the
        array's texts. Pairs whose lengths rule a match out are left out.
        """
        begins = np.searchsorted(run, wanted)
        begins[begins == len(run)] = 0
        used = np.flatnonzero(run[begins] & ~LOW == wanted)
        if not used.size:
            return []
        begins, owners = begins[used], owners[used]
        counts = np.searchsorted(run, wanted[used] | LOW, 'right') - begins
        ranges = np.array([length_range(len(codes), self.threshold) for codes in self._block])
        found = []
        # Many alike texts make many pairs, so only so many are made at a time.
        ends = np.cumsum(counts)
        cuts = np.searchsorted(ends, np.arange(PAIRS, ends[-1], PAIRS))
        for part in np.split(np.arange(len(used)), cuts):
            size = counts[part]
            # Place i of all pairs is place i - (where its range begins there) of the range.
            starts = np.repeat(begins[part] - (np.cumsum(size) - size), size)
            others = (run[starts + np.arange(len(starts))] & LOW).astype(np.int64)
            owner = np.repeat(owners[part], size)
            sizes = lengths[others]
            fits = (ranges[owner, 0] <= sizes) & (sizes <= ranges[owner, 1])
            found.append(_distinct(owner[fits] << 32 | others[fits]))
        return found

    def _flush(self) -> None:
        if not self._waiting:
            return
        indices = np.repeat(np.array([i for i, _ in self._waiting], np.uint64), self.bands.bands)
        hashes = np.concatenate([hashes for _, hashes in self._waiting]).astype(np.uint64)
        self._waiting.clear()
        run = np.sort(hashes << HALF | indices)
        while self._runs and len(self._runs[-1]) < GROWTH * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind='stable')  # which merges what is sorted already, ten times faster
        self._runs.append(run)


def _grouped(pairs: list[np.ndarray], owners: int) -> list[np.ndarray]:
    """The others of each owner, ascending, from arrays of owner << 32 | other."""
    found = _distinct(np.concatenate([np.empty(0, np.int64), *pairs]))
    ends = np.searchsorted(found, np.arange(1, owners) << 32)
    return np.split(found & 0xFFFFFFFF, ends)


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """Sorted, each once; np.unique hashes first, which takes longer here."""
    numbers = np.sort(numbers)
    first = np.ones(len(numbers), bool)
    first[1:] = numbers[1:] != numbers[:-1]
    return numbers[first]


class Bands:
    """Hash functions over a text's set of tokens, in which a second 的 is another element."""

    def __init__(self, threshold: float, recall: float, seed: int) -> None:
        self.rows, self.bands = plan(threshold, recall)
        size = (2, self.rows * self.bands)
        generator = np.random.default_rng(seed)
        self._times, self._plus = generator.integers(0, 1 << 32, size, np.uint32)
        self._times |= np.uint32(1)

    def recall(self, score: float) -> float:
        """The least probability that two texts of this ROUGE-L score agree in a band."""
        return 1 - (1 - (score / (2 - score)) ** self.rows) ** self.bands

    def hashes(self, texts: Sequence[str]) -> np.ndarray:
        """One hash for each band and text: uint32 [bands, texts]."""
        elements, begins = _elements(texts)
        least = np.empty((len(self._times), len(texts)), np.uint32)
        for row, times, plus in zip(least, self._times, self._plus):
            np.minimum.reduceat(elements * times + plus, begins, out=row)
        least = least.reshape(self.bands, self.rows, -1).astype(np.uint64)
        made = np.arange(1, self.bands + 1, dtype=np.uint64)[:, None] * SPREAD
        for row in range(self.rows):
            made = (made ^ least[:, row]) * SPREAD
            made ^= made >> HALF
        return made.astype(np.uint32)


def plan(threshold: float, recall: float) -> tuple[int, int]:
    """The longest bands, which meet the fewest texts in vain, of an affordable number.

    Args:
        threshold: The score that must be found.
        recall: The least probability of it.
    Returns:
        Least hashes in a band, and bands.
    Raises:
        ValueError: even bands of one hash would be too many.
    """
    jaccard = threshold / (2 - threshold)
    for rows in range(16, 0, -1):
        bands = math.ceil(math.log(1 - recall) / math.log1p(-(jaccard**rows))) if jaccard < 1 else 1
        if bands <= MOST_BANDS:
            return rows, bands
    raise ValueError(
        f'threshold={threshold} is too low for hashing: more than {MOST_BANDS} bands would be '
        'needed. Raise it, or compare exactly.'
    )


def _elements(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All tokens as scattered 32-bit numbers, the n-th of a kind apart; where each text begins."""
    codes = np.frombuffer(''.join(texts).encode('utf-32-le', 'surrogatepass'), np.uint32)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), lengths)
    ordered = np.sort(owner << HALF | codes)
    places = np.arange(len(ordered), dtype=np.uint64)
    fresh = np.ones(len(ordered), bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    occurrence = places - np.maximum.accumulate(np.where(fresh, places, 0))
    mixed = ((ordered & LOW) | occurrence << HALF) * SPREAD
    mixed = (mixed ^ mixed >> HALF) * SPREAD
    return (mixed >> HALF).astype(np.uint32), np.cumsum(lengths) - lengths
