"""How a program is asked to end: SIGTERM, SIGHUP (a closed terminal) and Ctrl-C, for all programs.

Schedulers send a signal to the group and to the process, and terminals may send two kinds: however
many come, they are one request, and what is being saved is saved. Only a Ctrl-C that comes a second
or more after the first request means that somebody will not wait.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
IMPATIENT = 1.0  # seconds after the first request

_asked: list[float] = []  # when, in the outermost block that is open
_open = 0


@contextlib.contextmanager
def heeding(
    ask: Callable[[], object], signals: tuple[signal.Signals, ...] = SIGNALS
) -> Iterator[None]:
    """While the block runs, the first of the signals calls `ask`, in the main thread.

    The others are passed over, but for a late Ctrl-C, which raises KeyboardInterrupt. A signal that
    is ignored stays so: `nohup` does that to SIGHUP, a script's `&` to Ctrl-C. Blocks may lie in
    each other, and what the inner one was asked counts in the outer one, too. In a thread of
    another program the signals are its matter.
    """
    global _open

    def handle(number: int, _: object) -> None:
        _asked.append(time.monotonic())
        if len(_asked) == 1:
            ask()
        elif number == signal.SIGINT and _asked[-1] - _asked[0] >= IMPATIENT:
            raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    heeded = [n for n in signals if ours and signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    _open += 1
    try:
        yield
    finally:
        _open -= 1
        if not _open:
            _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def interrupt() -> None:
    """What most programs do when they are asked: they clean up on their way out."""
    raise KeyboardInterrupt


def as_usual() -> None:
    """Gives the signals back their usual meaning, for a program with nothing to save."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)
