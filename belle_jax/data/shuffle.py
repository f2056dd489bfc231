"""Seeded permutations that are the same on every host, machine and version of numpy.

A run is resumed by them years later, and numpy does not promise its generators' streams.
"""

import hashlib

import numpy as np


def permutation(count: int, *key: int | str) -> np.ndarray:
    """A permutation of 0 .. count-1, decided by the key alone.

    Args:
        count: How many numbers.
        *key: Such as (seed, epoch) or (seed, 'validation').
    Returns:
        int64 [count].
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    with np.errstate(over='ignore'):
        # SplitMix64 (Steele et al., 2014) of consecutive numbers; ties keep their order.
        x = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(int.from_bytes(digest, 'little'))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return np.argsort(x, kind='stable')
