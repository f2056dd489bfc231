"""What came of a run, and where it lies.

OUTPUT                      the rows that were kept
OUTPUT stem.rejected.jsonl  the others: request, reason, text
OUTPUT stem.journal.sqlite  every request and reply
OUTPUT stem.report.html     plots
"""

import dataclasses
from pathlib import Path

from belle_jax.api import Spent
from belle_jax.synthesis.harvest import Harvest

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


@dataclasses.dataclass(frozen=True)
class Files:
    """Where a run's files lie."""

    output: Path
    journal: Path
    rejected: Path
    report: Path

    @classmethod
    def beside(cls, output: Path, journal: Path | None = None) -> 'Files':
        """The usual names."""
        return cls(
            output,
            journal or output.with_suffix('.journal.sqlite'),
            output.with_suffix('.rejected.jsonl'),
            output.with_suffix('.report.html'),
        )


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        harvest: The rows, and what was rejected.
        outcome: Why it ended: a word of ENDED or ENDED_EARLY, or 'error'.
        journaled: Answers in the journal.
        spent: On all of them.
        error: That ended it; the files are written all the same.
    """

    harvest: Harvest
    outcome: str
    journaled: int
    spent: Spent
    error: Exception | None = None

    def account(self, files: Files) -> str:
        """What came of it, in lines for people."""
        harvest, spent = self.harvest, self.spent
        lines = [
            f'{len(harvest.kept):,} rows of {len(harvest.points):,} replies.',
            *(f'  rejected, {name}: {n:,}' for name, n in harvest.rejected.most_common()),
        ]
        if self.outcome in ENDED:
            lines.append(f'It ended because {ENDED[self.outcome]}.')
        paid = f', ${spent.cost_usd:,.2f}' if spent.cost_usd else ''
        lines += [
            f'Journal: {files.journal} ({self.journaled:,} answers, {spent.tokens:,} tokens{paid})',
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
