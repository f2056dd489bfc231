"""Replies become rows: parsed, filtered, compared with everything before them, kept or counted.

What is kept is a function of the replies in the order of their index and of nothing else, so a
journal gives the same rows again, with the same filters, or others with other ones.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from belle_jax.synthesis.candidate import Row
from belle_jax.synthesis.filters import Rule, apply_rules
from belle_jax.synthesis.kinds import Kind
from belle_jax.synthesis.report_statistics import Point
from belle_jax.synthesis.similarity import Pool

if TYPE_CHECKING:
    from belle_jax.api import Reply

NEIGHBOURS = 10  # most similar instructions that BELLE's rows list
COMPARED = 512  # texts that are compared for that list, out of a large pool


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
            'avg_similarity_score': round(self.pool.average(text), 4),
        }


class Harvest:
    """The rows so far. `use` takes the replies, in the order of their index."""

    def __init__(
        self,
        kind: Kind,
        similarity: Similarity | None,
        count: int | None,
        rules: Iterable[Rule],
        reject: Callable[[Row], None] = lambda row: None,
        give_up_after: int = 0,
    ) -> None:
        """Starts empty.

        Args:
            kind: Parses replies.
            similarity: None compares nothing.
            count: Rows that are enough; None: all there are.
            rules: Filters, in order.
            reject: Gets each rejected piece as a row: index, reason, text.
            give_up_after: So many replies in a row that give nothing are an error; 0: never.
        """
        self.kind, self.similarity, self.count = kind, similarity, count
        self.kept: list[Row] = []
        self.rejected: Counter[str] = Counter()
        self.points: list[Point] = []
        self._rules, self._reject = tuple(rules), reject
        self._give_up_after, self._barren = give_up_after, 0

    @property
    def enough(self) -> bool:
        """Whether nothing more is needed."""
        return self.count is not None and len(self.kept) >= self.count

    def needs(self, pending: int) -> bool:
        """Whether rows will be missing even if pending replies give as many as those before did.

        Args:
            pending: Replies that are under way.
        """
        if self.count is None or not self.points:
            return True
        kept = len(self.kept)
        return kept + pending * kept / len(self.points) < self.count

    def use(self, reply: 'Reply') -> bool:
        """Takes the next reply.

        Args:
            reply: Of the next index, or one that was given up.
        Returns:
            Whether there are enough rows.
        Raises:
            ValueError: so many replies in a row gave nothing that something must be wrong.
        """
        before = len(self.kept)
        for candidate in self.kind.parse(reply):
            if self.enough:
                break
            if candidate.row is None:
                self._refuse(reply.index, candidate.rejected, candidate.detail)
            else:
                self._consider(reply.index, candidate.row)
        last = self.points[-1] if self.points else Point(0, 0, 0, 0, 0, 0.0)
        self.points.append(
            Point(
                last.replies + 1,
                len(self.kept) + self.rejected.total(),
                len(self.kept),
                last.prompt_tokens + reply.prompt_tokens,
                last.completion_tokens + reply.completion_tokens,
                last.usd + reply.cost_usd,
            )
        )
        self._barren = 0 if len(self.kept) > before else self._barren + 1
        if self._give_up_after and self._barren >= self._give_up_after and not self.enough:
            reasons = ', '.join(f'{name} {n:,}' for name, n in self.rejected.most_common(5))
            raise ValueError(
                f'{self._barren} replies in a row gave no row (rejected so far: {reasons}): '
                'nothing more is spent. Look at the rejected rows; other filters, another prompt '
                'or model may help, or a larger --give_up_after.'
            )
        return self.enough

    def _consider(self, index: int, row: Row) -> None:
        passed, reason = apply_rules(row, self._rules)
        if passed is None:
            return self._refuse(index, reason, json.dumps(row, ensure_ascii=False))
        text = self.kind.compared(passed)
        if not text or self.similarity is None:
            self.kept.append(passed)
            return None
        if near := self.similarity.too_near(text):
            detail = json.dumps(row, ensure_ascii=False)
            return self._refuse(index, 'too similar', f'{detail} to {near[0]!r} ({near[1]})')
        passed = passed | self.similarity.fields(text)
        self.similarity.add(text)
        self.kept.append(passed)
        return None

    def _refuse(self, index: int, reason: str, text: str) -> None:
        self.rejected[reason] += 1
        self._reject({'index': index, 'reason': reason, 'text': text})
