"""Texts in parts, such as an instruction and its input, which are alike only part by part."""

import array
from collections.abc import Sequence

import numpy as np

from belle_jax.texts.rouge import Texts, Tokens, encoder


class Parts:
    """The parts of a growing pool's texts."""

    def __init__(self, tokens: Tokens, threshold: float) -> None:
        """Starts empty.

        Args:
            tokens: What is compared, as in `encoder`.
            threshold: The ROUGE-L F1 from which two parts are alike; equal ones always are.
        """
        self._encode, self._threshold = encoder(tokens), threshold
        # Texts of two parts, of three, ... apart: for each part, and where a text stands there.
        self._groups: dict[int, list[Texts]] = {}
        self._counts, self._places = array.array('q'), array.array('q')

    def add(self, parts: Sequence[str]) -> None:
        """Adds the parts of the next text."""
        group = self._groups.setdefault(len(parts), [Texts() for _ in parts])
        self._counts.append(len(parts))
        self._places.append(len(group[0]) if group else 0)
        for texts, part in zip(group, parts) if len(parts) > 1 else ():
            texts.append(self._encode(part))

    def alike(self, parts: Sequence[str], indices: np.ndarray) -> np.ndarray:
        """Those of some texts whose parts are alike, or that have more or fewer of them.

        Args:
            parts: What is compared.
            indices: The texts' numbers.
        Returns:
            The numbers that are left.
        """
        if len(parts) < 2 or not indices.size:
            return indices
        left = np.frombuffer(self._counts, np.int64)[indices] == len(parts)
        others, same = indices[~left], indices[left]
        # What is short differs soonest.
        for texts, codes in sorted(
            zip(self._groups.get(len(parts), ()), map(self._encode, parts)),
            key=lambda pair: len(pair[1]),
        ):
            places = np.frombuffer(self._places, np.int64)[same]
            if codes:
                same = same[texts.scores(codes, places, self._threshold) > 0]
            else:
                same = same[[not texts.codes[place] for place in places.tolist()]]
            if not same.size:
                break
        return np.sort(np.concatenate([others, same]))
