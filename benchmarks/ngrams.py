"""An interpolated Kneser-Ney model over token ids."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Order:
    """The n-grams of one length.

    An n-gram has a number; its key is (number of the n-gram without its last token) * base + token,
    so that each order is found through the one before, without ever writing an n-gram out.
    """

    keys: np.ndarray  # int64 [n-grams], sorted: the index is the number
    discounted: np.ndarray  # float64 [n-grams], count minus discount, at least 0
    total: np.ndarray  # float64 [contexts], sum of counts after a context
    backoff: np.ndarray  # float64 [contexts], discounted mass, as a count


class KneserNey:
    """Modified Kneser-Ney, interpolated, discounts from counts of counts.

    Source: Chen and Goodman, 1999, "An empirical study of smoothing techniques", section 3.
    """

    def __init__(
        self, tokens: np.ndarray, segments: np.ndarray, vocab_size: int, order: int = 5
    ) -> None:
        """Counts.

        Args:
            tokens: int [tokens], all training segments one after the other.
            segments: int [tokens], changes from one segment to the next; n-grams end there.
            vocab_size: Different tokens; the model's lowest order is uniform over them.
            order: Longest n-gram.
        """
        self.vocab_size, self.order = vocab_size, order
        self._base = vocab_size + 1  # one more symbol stands for what is before a segment
        stream, real = self._padded(tokens, segments)
        grams, keys = self._numbered(stream)
        # Whether an n-gram begins in the padding: nothing is to its left, so it keeps its count.
        self.orders: list[Order] = []
        for k in range(order):
            ends = np.flatnonzero(real)
            numbers = grams[k][ends]
            raw = np.bincount(numbers, minlength=len(keys[k]))
            count = raw
            if k + 1 < order:
                _, where = np.unique(grams[k + 1][ends], return_index=True)
                # Kneser and Ney: how many different tokens come before it, not how often it comes.
                different = np.bincount(numbers[where], minlength=len(keys[k]))
                edge = np.zeros(len(keys[k]), bool)
                edge[numbers] = stream[ends - k] == vocab_size
                count = np.where(edge, raw, different)
            self.orders.append(self._estimated(keys[k], count, k))

    def nll(self, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
        """Negative log-likelihoods.

        Args:
            tokens: int [tokens].
            segments: int [tokens], as in training.
        Returns:
            float64 [tokens], nats, each token given the ones before it in its segment.
        """
        stream, real = self._padded(tokens, segments)
        probability = np.full(len(stream), 1 / self.vocab_size)
        before = np.zeros(len(stream), np.int64)  # the empty context
        for order in self.orders:
            known = before >= 0
            number = _find(order.keys, before * self._base + stream)
            number[~known] = -1
            total = np.where(known, order.total[before], 0)
            mass = np.where(number >= 0, order.discounted[number], 0)
            mixed = mass + order.backoff[before] * probability
            probability = np.where(total > 0, mixed / np.maximum(total, 1), probability)
            before = np.concatenate([[-1], number[:-1]])
        return -np.log(probability[real])

    def _padded(self, tokens: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Segments with order - 1 symbols in front of each, and which entries are tokens."""
        starts = np.concatenate([[True], segments[1:] != segments[:-1]])
        offset = np.cumsum(starts) * (self.order - 1)
        where = np.arange(len(tokens)) + offset
        stream = np.full(len(tokens) + offset[-1], self.vocab_size, np.int64)
        stream[where] = tokens
        real = np.zeros(len(stream), bool)
        real[where] = True
        return stream, real

    def _numbered(self, stream: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """For each length the number of the n-gram that ends at each entry, and the keys."""
        grams, keys = [], []
        before = np.zeros(len(stream), np.int64)
        for _ in range(self.order):
            unique, number = np.unique(before * self._base + stream, return_inverse=True)
            grams.append(number)
            keys.append(unique)
            before = np.concatenate([[0], number[:-1]])  # the first entries are padding anyway
        return grams, keys

    def _estimated(self, keys: np.ndarray, count: np.ndarray, k: int) -> Order:
        context = keys // self._base
        contexts = len(self.orders[k - 1].keys) if k else 1
        n1, n2, n3, n4 = (max(1, int((count == c).sum())) for c in (1, 2, 3, 4))
        y = n1 / (n1 + 2 * n2)
        steps = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        # Too little text gives counts of counts that break the formulas.
        discounts = np.clip(steps, 0.0, [0, 1, 2, 3])
        discount = discounts[np.minimum(count, 3)]
        return Order(
            keys=keys,
            discounted=count - discount,
            total=np.bincount(context, count, contexts),
            backoff=np.bincount(context, discount, contexts),
        )


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where keys stand in a sorted array; -1 where they do not."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)
