"""What a kind's parser makes of a reply: rows, and pieces that were rejected with a reason."""

import dataclasses

from belle_jax.texts.filters import Row


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One piece of a reply.

    Attributes:
        row: The row, in the layout of its kind; None if the piece was rejected.
        rejected: The reason in a few words, the same for all such pieces, for counting.
        detail: The rejected piece's text, for people.
    """

    row: Row | None
    rejected: str = ''
    detail: str = ''


def refused(reason: str, text: str) -> Candidate:
    """A rejected piece.

    Args:
        reason: A few words, the same for all such pieces.
        text: What was rejected, whole.
    Returns:
        The candidate without a row.
    """
    return Candidate(None, reason, text.strip())
