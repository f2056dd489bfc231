"""The step at which all processes of a job stop, once one of them was asked to."""

import threading
from collections.abc import Callable
from typing import Any

Send = Callable[..., None]  # a message, to process 0 from the others and from process 0 to all


class Stopping:
    """How far this process is, and where it stops.

    Whoever is asked tells process 0, which asks all how far they are and names the step behind the
    farthest. From then until that is known a process begins no step, so that nobody is beyond it.
    The threads of the watch speak of this, for main threads may wait in a step for each other; and
    JAX's own service waits with Python's lock held, which would silence the watch.
    """

    def __init__(self, processes: int, process: int) -> None:
        """Nobody was asked yet."""
        self._processes, self._process = processes, process
        self._changed = threading.Condition()
        self._asked = self._told = self._pausing = False
        self._step = -1  # that was begun last
        self._steps: dict[int, int] = {}
        self._at: int | None = None

    def ask(self) -> None:
        """Asks all to stop; a signal's handler may call it, and the watch's thread tells."""
        self._asked = True

    def reached(self, step: int) -> bool:
        """Whether all stop before this step; may wait until it is known. For the main thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pausing or self._at is not None)
            self._step = step
            return self._at is not None and step >= self._at

    def turn(self, send: Send) -> None:
        """In the watch's thread, again and again: tells that this process was asked."""
        if self._asked and not self._told:
            self._told = True
            self.hear(0, 'asked', send) if self._process == 0 else send(stop='asked')

    def hear(self, number: int, said: Any, send: Send) -> None:
        """In the watch's thread: what a process says of stopping.

        Args:
            number: The process.
            said: 'asked'; 'how far'; the step of a process; or [the step at which all stop].
            send: Answers.
        """
        with self._changed:
            if said == 'asked' and not self._pausing:
                self._pausing = True
                self._steps[0] = self._step
                send(stop='how far')
            elif said == 'how far':
                self._pausing = True
                send(stop=self._step)
            elif isinstance(said, int):
                self._steps[number] = said
            elif isinstance(said, list):
                self._at = said[0]
            if self._at is None and len(self._steps) == self._processes:
                self._at = max(self._steps.values()) + 1
                send(stop=[self._at])
            self._changed.notify_all()
