"""Replies become rows: parsed, filtered, compared with everything before them, kept or counted.

What is kept is a function of the replies in the order of their index and of nothing else, so a
journal gives the same rows again, with the same filters, or others with other ones.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from belle_jax.synthesis.kinds import Kind
from belle_jax.synthesis.report_statistics import Point
from belle_jax.texts.filters import Row, Rule, apply_rules
from belle_jax.texts.similarity import Similarity

if TYPE_CHECKING:
    from belle_jax.api import Reply


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
            give_up_after: So many replies in a row that give nothing end it; 0: none do.

        Attributes:
            kept: The rows.
            rejected: Pieces by reason.
            points: The course: one for each reply.
            barren: Replies since the last one that gave a row.
        """
        self.kind, self.similarity, self.count = kind, similarity, count
        self.kept: list[Row] = []
        self.rejected: Counter[str] = Counter()
        self.points: list[Point] = []
        self._rules, self._reject = tuple(rules), reject
        self._give_up_after, self.barren = give_up_after, 0

    @property
    def enough(self) -> bool:
        """Whether nothing more is needed."""
        return self.count is not None and len(self.kept) >= self.count

    @property
    def ended(self) -> bool:
        """Whether there is enough, or no hope for more."""
        return self.enough or bool(self._give_up_after and self.barren >= self._give_up_after)

    def needs(self, pending: int) -> bool:
        """Whether rows will be missing even if pending replies give as many as those before did.

        Args:
            pending: Replies that are under way.
        """
        if self.count is None:
            return True
        # Before the first reply nobody knows; the most that is asked for wastes the least money.
        rate = len(self.kept) / len(self.points) if self.points else self.kind.most_rows
        return len(self.kept) + pending * rate < self.count

    def use(self, reply: 'Reply') -> bool:
        """Takes the next reply.

        Args:
            reply: Of the next index, or one that was given up.
        Returns:
            Whether that ended it.
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
        self.barren = 0 if len(self.kept) > before else self.barren + 1
        return self.ended

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
        # The texts of others are shown where they are short: instructions, not whole dialogues.
        if text == passed.get('instruction'):
            passed = passed | self.similarity.fields(text)
        self.similarity.add(text)
        self.kept.append(passed)
        return None

    def _refuse(self, index: int, reason: str, text: str) -> None:
        self.rejected[reason] += 1
        self._reject({'index': index, 'reason': reason, 'text': text})
