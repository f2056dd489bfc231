"""One line on standard error that says how far long work is, how fast, and how long it takes."""

import math
import shutil
import sys
import time


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as '0:04:10'."""
    minutes, rest = divmod(int(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{rest:02}'


def usd(amount: float) -> str:
    """Money in as many digits as say something: $1,234, $12.34, $0.0042."""
    if amount >= 100 or not amount:
        return f'${amount:,.0f}'
    digits = 2 if amount >= 0.095 else 1 - math.floor(math.log10(amount))
    return f'${amount:.{digits}f}'


class Line:
    """A line that is written over again and again; in a log file a new one now and then.

    Attributes:
        live: Whether it is written over, as on a terminal.
        said: Whether anything was shown.
    """

    def __init__(self, wanted: bool = True) -> None:
        """Shows nothing where it is not wanted, as in all processes of a run but one."""
        self._wanted = wanted
        self._shown = time.monotonic()
        # On a terminal the line is written over; in a log file it would only pile up.
        self.live = sys.stderr.isatty()
        self._every = 1.0 if self.live else 15.0
        self.said = False
        self._text = ''

    @property
    def due(self) -> bool:
        """Whether it is time to show something: once a second at most."""
        return self._wanted and time.monotonic() - self._shown >= self._every

    def show(self, text: str, last: bool = False) -> None:
        """Shows a text in place of the one before.

        Args:
            text: One line.
            last: Whether nothing is written over it.
        """
        if not self._wanted:
            return
        if self.live:
            # A line that is wrapped cannot be written over.
            text = text[: shutil.get_terminal_size().columns - 1]
        self._shown, self.said = time.monotonic(), True
        self._text = '' if last else text
        start, end = ('\r\033[K', '\n' if last else '') if self.live else ('', '\n')
        print(f'{start}{text}', end=end, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Prints a text that stays, above the line."""
        if self._wanted:
            start, end = ('\r\033[K', self._text) if self.live else ('', '')
            print(f'{start}{text}\n{end}', end='', file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the last text as it stands."""
        if self.live and self._text:
            print(file=sys.stderr, flush=True)
        self._text = ''


class Progress:
    """Shows progress at most once a second; work that is over sooner stays silent."""

    def __init__(self, what: str, unit: str, total: int = 0, before: int = 0) -> None:
        """
        Args:
            what: Is being done: the beginning of the line.
            unit: Of what is counted.
            total: Units of the whole, where that is known beforehand.
            before: Units that were done earlier, and say nothing of the rate.
        """
        self._what, self._unit, self._total, self._before = what, unit, total, before
        self._begun, self._line = time.monotonic(), Line()

    def show(self, count: int, done: float = 0.0, **others: int) -> None:
        """Says how far the work is.

        Args:
            count: Units so far.
            done: Fraction of the whole; where there is a total, it is known without.
            others: Further counts by unit, such as tokens=900, to show their rates too.
        """
        if not self._line.due:
            return
        took, before = time.monotonic() - self._begun, 0.0
        how_far = f'{done:.0%}'
        if self._total:
            done, before = count / self._total, self._before / self._total
            how_far = f'{count:,}/{self._total:,} {self._unit}'
        rates = {self._unit: count - self._before} | others
        parts = [how_far, *(_rate(n / took, unit) for unit, n in rates.items())]
        if done > before:
            parts.append(f'{took / (done - before) * (1 - done):,.0f} s left')
        self._line.show(f'{self._what}: {", ".join(parts)}')

    def end(self, count: int) -> None:
        """Says what it came to, if anything was said before."""
        if self._line.said:
            took = time.monotonic() - self._begun
            self._line.show(f'{self._what}: {count:,} {self._unit} in {took:,.0f} s', last=True)


def _rate(rate: float, unit: str) -> str:
    return f'{rate:,.1f} {unit}/s' if rate < 10 else f'{rate:,.0f} {unit}/s'
