"""How often, how long and how far apart a request is tried."""

import email.utils
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Retries:
    """The bounds of one request's attempts.

    Attributes:
        attempts: The most of them.
        first_delay: Seconds; the back-off before attempt n+1 is drawn from 0 to
            first_delay * 2^(n-1) ("full jitter"), so that many that failed together come apart.
        longest_delay: Where doubling ends, in seconds.
        attempt_timeout: Seconds until an attempt counts as failed.
        deadline: Seconds for all attempts of a request and the pauses between them; waiting for
            the rate limit or for a server that is down for all does not count.
        shortenings: How often max_tokens is multiplied by 0.8 for a prompt that is too long.
    Source: full jitter: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015; the
        factor 0.8: BELLE and Stanford Alpaca.
    """

    attempts: int = 10
    first_delay: float = 1.0
    longest_delay: float = 60.0
    attempt_timeout: float = 120.0
    deadline: float = 900.0
    shortenings: int = 10

    def delay(self, attempt: int, retry_after: float | None, chance: random.Random) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: Which failed, from 1.
            retry_after: What the server asked for; never undercut.
            chance: Where the jitter comes from.
        """
        # The exponent is bounded, as no float is as large as 2 to the 1024th.
        widest = min(self.longest_delay, self.first_delay * 2.0 ** min(attempt - 1, 60))
        jitter = chance.uniform(0, widest)
        if retry_after is None:
            return jitter
        # Many are told the same moment: a little jitter on top keeps them from coming at once.
        return retry_after + min(jitter, 1.0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """What a response asks to wait.

    Args:
        headers: Of the response, names in lower case.
    Returns:
        Seconds from now, or None where it asks nothing that can be read.
    Source: RFC 9110, section 10.2.3 (seconds or a date); `retry-after-ms` is OpenAI's and Azure's.
    """
    for name, unit in (('retry-after-ms', 1000.0), ('retry-after', 1.0)):
        try:
            seconds = float(headers.get(name, '')) / unit
        except ValueError:
            continue
        return seconds if 0 <= seconds < float('inf') else None
    moment = _date(headers.get('retry-after', ''))
    if moment is None:
        return None
    # The server's own clock, where it tells it: ours may be off by more than the wait.
    now = _date(headers.get('date', ''))
    return max(0.0, moment - (time.time() if now is None else now))


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None
