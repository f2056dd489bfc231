"""How near a new row comes to those that are there already, and to the seed tasks."""

from collections.abc import Iterable

from belle_jax.texts.bm25 import REJECTED, BM25Index
from belle_jax.texts.filters import Row
from belle_jax.texts.similarity import Index, Pool
from belle_jax.texts.token_codes import Tokens

MEASURES = {'rouge': 'ROUGE-L F1', 'bm25': 'BM25'}
ROUGE_REJECTED = 0.7  # as Stanford Alpaca and self-instruct
NEIGHBOURS = 10  # most similar instructions that BELLE's rows list
COMPARED = 512  # texts that are compared for that list, out of a large pool
SAMPLED = 512  # texts of which the average is taken: 0.0015 off for a pool of 52,000


class Similarity:
    """How near a row comes to what is there already."""

    def __init__(self, pool: Pool, threshold: float, measure: str, listed: bool = True) -> None:
        """
        Args:
            pool: An empty index.
            threshold: A score that rejects a row.
            measure: What the score is, for people.
            listed: Whether rows tell their nearest neighbours, as BELLE's do.
        """
        self.pool, self.threshold = pool, threshold
        self.measure, self.listed = measure, listed
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        """Adds what later rows are compared with."""
        self.pool.add(text)
        self._texts.append(text)

    def too_near(self, text: str) -> tuple[str, float] | None:
        """The first text over the threshold, with its score."""
        match = self.pool.first_over(text, self.threshold)
        return match and (self._texts[match.index], round(match.score, 4))

    def fields(self, text: str) -> Row:
        """What BELLE's rows say of their neighbours."""
        if not self.listed or not self._texts:
            return {}
        matches = self.pool.most_similar(text, NEIGHBOURS, COMPARED)
        return {
            'most_similar_instructions': {self._texts[m.index]: round(m.score, 4) for m in matches},
            'avg_similarity_score': round(self.pool.average(text, SAMPLED), 4),
        }


def similarity(
    name: str,
    tokens: Tokens,
    threshold: float | None,
    listed: bool,
    texts: Iterable[str],
) -> Similarity:
    """A pool with some texts.

    Args:
        name: 'rouge' or 'bm25'.
        tokens: What is compared.
        threshold: The score that rejects; None: 0.7, or 18 for BM25 as BELLE.
        listed: Whether rows tell their nearest neighbours.
        texts: Of the seed tasks.
    Returns:
        The pool.
    Raises:
        ValueError: no row, or every row, would reach the threshold.
    """
    pool = BM25Index(tokens) if name == 'bm25' else Index(tokens)
    if threshold is None:
        threshold = REJECTED if name == 'bm25' else ROUGE_REJECTED
    if threshold <= 0 or (name == 'rouge' and threshold > 1):
        raise ValueError(
            f'threshold={threshold:g} cannot tell texts apart: for ROUGE-L it is above 0 and at '
            'most 1, for BM25 above 0. Set --threshold, or --similarity=none to compare nothing.'
        )
    shown = tokens if isinstance(tokens, str) else 'model tokens'
    found = Similarity(pool, threshold, f'{MEASURES[name]}, {shown}', listed)
    for text in texts:
        found.add(text)
    return found
