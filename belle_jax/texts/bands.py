"""MinHash in bands: texts of which a large enough part is the same agree in a band, most likely.

Source: Broder, 1997 (MinHash); Leskovec, Rajaraman and Ullman, section 3.4 (bands).
"""

import math
from collections.abc import Sequence

import numpy as np

MOST_BANDS = 72
SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd and irregular: multiplying by it scatters bits
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


class Bands:
    """Hash functions over a text's set of tokens, in which a second 的 is another element."""

    def __init__(self, threshold: float, recall: float, seed: int) -> None:
        """Draws the hash functions.

        Args:
            threshold: The ROUGE-L score that must be found.
            recall: The least probability of it.
            seed: Of the hash functions.
        Raises:
            ValueError: no affordable number of bands has that recall.
        """
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
