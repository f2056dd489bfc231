"""What a run brings, where it lies, and what is told of it: the account.

Replies become rows: parsed, filtered, compared with everything before them, kept or counted. What
is kept is a function of the replies in the order of their index and of nothing else, so a journal
gives the same rows again, with the same filters, or others with other ones.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from belle_jax.api import Journal, Reply, session
from belle_jax.api.session import Standing
from belle_jax.synthesis.kinds import Kind
from belle_jax.synthesis.report_statistics import Point
from belle_jax.texts.filters import Row, Rule, apply_rules
from belle_jax.texts.similarity import Similarity

ENDED = {
    'enough': 'there are enough rows',
    'exhausted': 'all requests are made',
    'rebuilt': 'the journal has no more, or there are enough rows',
}
ENDED_EARLY = {
    'budget': 'the budget is reached: raise it and run the same command to go on.',
    'interrupted': 'interrupted: run the same command to go on.',
    'barren': 'too many replies in a row gave no row, so nothing more is spent. Look at the '
    'rejected ones: other filters, another prompt or model may help, or a larger --give_up_after.',
}


@dataclass
class Harvest:
    """The rows so far. `use` takes the replies, in the order of their index.

    Attributes:
        kind: Parses replies.
        similarity: None compares nothing.
        count: Rows that are enough; None: all there are.
        rules: Filters, in order.
        reject: Gets each rejected piece as a row: index, reason, text.
        give_up_after: So many replies in a row that give nothing end it; 0: none do.
        kept: The rows.
        rejected: Pieces by reason.
        by_hand: What a person changed of them afterwards, in a sentence.
        points: The course: one for each reply.
        thought: Replies whose model thought first.
        barren: Replies since the last one that gave a row.
        told: Whether the server gives finish reasons.
    """

    kind: Kind
    similarity: Similarity | None
    count: int | None
    rules: Sequence[Rule]
    reject: Callable[[Row], None] = lambda row: None
    give_up_after: int = 0
    kept: list[Row] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    by_hand: str = ''
    points: list[Point] = field(default_factory=list)
    thought: int = 0
    barren: int = 0
    told: bool = False

    @property
    def enough(self) -> bool:
        """Whether nothing more is needed."""
        return self.count is not None and len(self.kept) >= self.count

    @property
    def ended(self) -> bool:
        """Whether there is enough, or no hope for more."""
        return self.enough or bool(self.give_up_after and self.barren >= self.give_up_after)

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

    def use(self, reply: Reply) -> bool:
        """Takes the next reply, or one that was given up; returns whether that ended it."""
        before = len(self.kept)
        self.thought += bool(reply.thoughts)
        for candidate in self.kind.parse(reply, self.told):
            if self.enough:
                break
            if candidate.row is None:
                self._refuse(reply.index, candidate.rejected, candidate.detail)
            else:
                self._consider(reply.index, candidate.row)
        last = self.points[-1] if self.points else Point()
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
        self.told = self.told or reply.finish_reason is not None
        self.barren = 0 if len(self.kept) > before else self.barren + 1
        return self.ended

    def standing(self) -> Standing:
        """How far it is, for the live line."""
        wanted = f'/{self.count:,}' if self.count else ''
        parts = ((len(self.kept), self.count), (len(self.points), self.kind.requests))
        done = max((min(1.0, number / whole) for number, whole in parts if whole), default=None)
        found = ''
        if self.rejected:
            top = ', '.join(f'{name} {n:,}' for name, n in self.rejected.most_common(3))
            found = f'rejected {self.rejected.total():,} ({top})'
        return Standing(f'kept {len(self.kept):,}{wanted}', done, found)

    def _consider(self, index: int, row: Row) -> None:
        passed, reason = apply_rules(row, self.rules)
        if passed is None:
            return self._refuse(index, reason, json.dumps(row, ensure_ascii=False))
        text = self.kind.compared(passed)
        if text and self.similarity:
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
        self.reject({'index': index, 'reason': reason, 'text': text})


@dataclass(frozen=True)
class Files:
    """Where a run's files lie.

    Attributes:
        output: The rows that were kept.
        journal: Every request and reply.
        rejected: The other pieces: request, reason, text.
        report: Plots.
        decisions: What a person decided about rows and pieces.
        harvested: The rows before that, where it changes any.
    """

    output: Path
    journal: Path
    rejected: Path
    report: Path
    decisions: Path
    harvested: Path

    @classmethod
    def beside(cls, output: Path, journal: Path | None = None) -> 'Files':
        """The usual names: OUTPUT's, with endings of their own."""
        endings = 'journal.sqlite rejected.jsonl report.html review.jsonl harvested.jsonl'.split()
        beside = [output.with_suffix(f'.{ending}') for ending in endings]
        return cls(output, journal or beside[0], *beside[1:])

    @property
    def written(self) -> dict[str, list[Path]]:
        """What a run writes, by the flags that say where; SQLite has files beside its own."""
        journal = [self.journal.with_name(self.journal.name + end) for end in ('', '-wal', '-shm')]
        return {'--output': [self.output, self.rejected, self.report], '--journal': journal}


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        harvest: The rows, and what was rejected.
        outcome: Why it ended: a word of ENDED or ENDED_EARLY, or 'error'.
        journal: What it has, and what was spent on it.
        changes: What was asked otherwise, as the server takes it only so.
        error: That ended it; the files are written all the same.
    """

    harvest: Harvest
    outcome: str
    journal: Journal
    changes: Sequence[str] = ()
    error: Exception | None = None

    def account(self, files: Files) -> str:
        """What came of it, in lines for people."""
        harvest = self.harvest
        lines = [
            f'{len(harvest.kept):,} rows of {len(harvest.points):,} replies.',
            *(f'  rejected, {name}: {n:,}' for name, n in harvest.rejected.most_common()),
            *filter(None, [harvest.by_hand]),
        ]
        if self.outcome in ENDED:
            lines.append(f'It ended because {ENDED[self.outcome]}.')
        if harvest.thought:
            lines.append(f'{harvest.thought:,} replies began with thoughts, which are left out.')
        lines += self.changes
        lines += [
            *session.account(self.journal),
            f'Report: {files.report}',
            f'Rejected: {files.rejected}',
            f'Rows: {files.output}',
        ]
        return '\n'.join(lines)

    @property
    def complaint(self) -> str:
        """The sentence that says why there is not all that was asked for; '' if there is."""
        if self.error:
            return str(self.error)
        return ENDED_EARLY.get(self.outcome, '')
