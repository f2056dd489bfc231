"""Numbers for a live line while a run goes on."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counters:
    """What has happened so far. The event loop writes; any thread may read.

    Attributes:
        in_flight: Requests that are being asked, or wait for another try.
        asked: Requests that this run began to ask.
        answered: Of these, those with an answer in the journal.
        given_up: Of these, those that were given up.
        from_journal: Replies taken from the journal.
        used: Replies that were given to `use`.
        retries: Further attempts by the reason of the failure before.
        prompt_tokens: Of this run, attempts that came to nothing included.
        completion_tokens: Likewise.
        cost_usd: Likewise.
        paused: Whether the circuit breaker holds everything back.
    """

    in_flight: int = 0
    asked: int = 0
    answered: int = 0
    given_up: int = 0
    from_journal: int = 0
    used: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    paused: bool = False
