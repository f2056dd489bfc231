"""One line on standard error that says how far long work is, how fast, and how long it takes."""

import shutil
import sys
import time


class Line:
    """A line that is written over again and again; in a log file a new one now and then."""

    def __init__(self) -> None:
        self._shown = time.monotonic()
        # On a terminal the line is written over; in a log file it would only pile up.
        self._live = sys.stderr.isatty()
        self._every = 1.0 if self._live else 15.0
        self.said = False

    @property
    def due(self) -> bool:
        """Whether it is time to show something: once a second at most."""
        return time.monotonic() - self._shown >= self._every

    def show(self, text: str, last: bool = False) -> None:
        """Shows a text in place of the one before.

        Args:
            text: One line.
            last: Whether nothing is written over it.
        """
        if self._live:
            # A line that is wrapped cannot be written over.
            text = text[: shutil.get_terminal_size().columns - 1]
        self._shown, self.said = time.monotonic(), True
        start, end = ('\r\033[K', '' if not last else '\n') if self._live else ('', '\n')
        print(f'{start}{text}', end=end, file=sys.stderr, flush=True)


class Progress:
    """Shows progress at most once a second; work that is over sooner stays silent."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._begun, self._line = time.monotonic(), Line()

    def show(self, count: int, done: float) -> None:
        """Says how far the work is.

        Args:
            count: Units so far.
            done: Fraction of the whole.
        """
        if not self._line.due:
            return
        took = time.monotonic() - self._begun
        left = f', {took / done * (1 - done):,.0f} s left' if done else ''
        self._line.show(f'{self._what}: {done:.0%}, {count / took:,.0f} {self._unit}/s{left}')

    def end(self, count: int) -> None:
        """Says what it came to, if anything was said before."""
        if self._line.said:
            took = time.monotonic() - self._begun
            self._line.show(f'{self._what}: {count:,} {self._unit} in {took:,.0f} s', last=True)
