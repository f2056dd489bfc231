"""One line on standard error that says how far long work is, how fast, and how long it takes."""

import sys
import time


class Progress:
    """Shows progress at most once a second; work that is over sooner stays silent."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._begun = self._shown = time.monotonic()
        # On a terminal the line is written over; in a log file it would only pile up.
        self._live = sys.stderr.isatty()
        self._every = 1.0 if self._live else 15.0
        self._said = False

    def show(self, count: int, done: float) -> None:
        """Says how far the work is.

        Args:
            count: Units so far.
            done: Fraction of the whole.
        """
        now = time.monotonic()
        if now - self._shown < self._every:
            return
        self._shown, self._said = now, True
        took = now - self._begun
        left = f', {took / done * (1 - done):,.0f} s left' if done else ''
        line = f'{self._what}: {done:.0%}, {count / took:,.0f} {self._unit}/s{left}'
        print(f'\r\033[K{line}' if self._live else line, end='' if self._live else '\n',
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self, count: int) -> None:
        """Says what it came to, if anything was said before."""
        took = time.monotonic() - self._begun
        if self._said:
            line = f'{self._what}: {count:,} {self._unit} in {took:,.0f} s'
            print(f'\r\033[K{line}' if self._live else line, file=sys.stderr, flush=True)
