"""A watch over the processes of a job: if one is lost, all end at once, and say which.

Every other process keeps a connection to process 0, over which both tell twenty times in a timeout
that they live, from a thread of their own: what hangs or is compiled for long in the main thread
does not hold it up. A connection that is closed without a goodbye means a process that was killed;
one that stays silent, a process that is stopped, or a machine or network that is down. Process 0
judges the others and they judge it; the sentence goes to all, and each leaves with `os._exit`, for
the main thread may wait in a collective operation for ever.

JAX's own service does nothing of this before all processes are there, names no host, and ends the
others by SIGABRT; here its heartbeats come later than ours.
"""

import contextlib
import os
import selectors
import socket
import threading
import time
from typing import Any, NoReturn

from belle_jax.cluster.job import ClusterJob
from belle_jax.cluster.link import Link
from belle_jax.cluster.stopping import Stopping

LOST = 75
"""Exit code after a process was lost (EX_TEMPFAIL of sysexits.h): start the same command again."""
AGAIN = 'The same command goes on from the last checkpoint.'
GRACE = 2.0  # seconds, at most, for a process to find the mistake of another itself


class Watch:
    """The connections of this process, and the thread that listens to them."""

    def __init__(self, job: ClusterJob, timeout: float, program: str) -> None:
        """Knows nobody yet: see `joining`.

        Args:
            job: Who this is.
            timeout: Seconds until a silent process is given up.
            program: Begins the sentences.
        """
        self.job, self.timeout, self._program = job, timeout, program
        self.host = os.environ.get('SLURMD_NODENAME') or socket.gethostname()
        self.links: dict[int, Link] = {}
        self.stopping = Stopping(job.processes, job.process)
        self.console: int | None = None  # where sentences of processes but 0 went before the log
        self._period = min(5.0, timeout / 20)
        self._begun = time.monotonic()
        self._said: dict[tuple[str, int], Any] = {}  # by subject and process
        self._changed = threading.Condition()
        self._failing = self._ending = self._closed = False
        self._selector = selectors.DefaultSelector()

    # ─── what the main thread does ────────────────────────────────────────────────────────────────

    def start(self, server: socket.socket | None = None) -> None:
        """Listens, with process 0's server for those who come."""
        if server is not None:
            self._selector.register(server, selectors.EVENT_READ, None)
        for number, link in self.links.items():
            self._selector.register(link.socket, selectors.EVENT_READ, (number, link))
        threading.Thread(target=self._listen, name='watch', daemon=True).start()

    def meet(self, subject: str, value: Any) -> dict[int, Any]:
        """Gives process 0 a value for a subject, and waits for the values.

        Returns:
            In process 0 the values of all, by process; in the others, {0: what it `announce`s}.
        """
        if self.job.process:
            self.links[0].send(subject=subject, value=value)
            return {0: self._wait(subject, [0])[0]}
        return {0: value} | self._wait(subject, range(1, self.job.processes))

    def announce(self, subject: str, value: Any) -> None:
        """Process 0's answer to those who `meet`."""
        self._send(subject=subject, value=value)

    def _send(self, **message: Any) -> None:
        """To all from process 0, to process 0 from the others."""
        for link in list(self.links.values()):
            link.send(**message)

    def fail(self, code: int, sentence: str, patience: float) -> None:
        """Tells the others what this process ends with; returns when it may end.

        Args:
            code: Its exit code, which becomes theirs.
            sentence: What went wrong here.
            patience: Seconds to wait for another process to be found the cause; then all end with
                that instead, and this does not return.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ending, patience)
            self._failing = True
            if self._ending:
                self._changed.wait()  # for the end
        for link in list(self.links.values()):
            link.send(code=code, sentence=f'{self.name(self.job.process)}: {sentence}')
        self._part()

    def leave(self) -> None:
        """Takes leave of the others; process 0 waits until all have."""
        if not self.job.process:
            with self._changed:
                self._changed.wait_for(lambda: all(link.done for link in self.links.values()))
        self._closed = True
        for link in list(self.links.values()):
            link.send(bye=True)

    def name(self, process: int) -> str:
        """How sentences call a process: by its number, and its machine where that is known."""
        link, hosts = self.links.get(process), self.job.hosts
        if process == self.job.process:
            return f'process {process} on {self.host}'
        if link and link.host:
            return f'process {process} on {link.host}'
        return f'process {process}' + (f' ({hosts[process]})' if process < len(hosts) else '')

    def end(self, code: int, sentence: str, everywhere: bool = True) -> NoReturn:
        """Ends all processes.

        Args:
            code: Their exit code.
            sentence: On standard error.
            everywhere: Whether also where that led before there was a log.
        """
        self._claim()
        for link in list(self.links.values()):
            link.send(code=code, sentence=sentence)
        self._exit(code, sentence, everywhere)

    def _exit(self, code: int, sentence: str, everywhere: bool) -> NoReturn:
        line = f'{self._program}: {" ".join(sentence.split())}\n'.encode()
        for place in {2, self.console if everywhere and self.console else 2}:
            with contextlib.suppress(OSError):
                os.write(place, (b'\r\033[K' if os.isatty(place) else b'') + line)
        self._part()
        os._exit(code)

    # ─── what its thread does ─────────────────────────────────────────────────────────────────────

    def _listen(self) -> None:
        looked = time.monotonic()
        while not self._closed:
            for key, _ in self._selector.select(self._period):
                if key.data is None:
                    self._admit(key.fileobj)  # type: ignore[arg-type]
                else:
                    self._hear(*key.data)
            for link in list(self.links.values()):
                if not link.done:
                    link.send()
            self.stopping.turn(self._send)
            before, looked = looked, time.monotonic()
            if looked - before < 4 * self._period:  # else it was stopped itself: first it reads
                self._judge()

    def _admit(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            link = Link(server.accept()[0])
            self._selector.register(link.socket, selectors.EVENT_READ, (None, link))

    def _hear(self, number: int | None, link: Link) -> None:
        """Reads what a process says; `number` is None before it has said who it is."""
        try:
            messages = link.receive()
        except EOFError:
            self._selector.unregister(link.socket)
            if number is not None and not (link.done or self._failing or self._closed):
                self.end(
                    LOST,
                    f'{self.name(number)} was lost: its connection closed without a word, as when '
                    f'it is killed, has no memory left, or its machine goes down. {AGAIN}',
                )
            return
        for message in messages:
            if number is None:
                number = self._greet(message, link)
                if number is None:
                    return
            with self._changed:
                if 'bye' in message:
                    link.done = True
                if 'host' in message:
                    link.host = str(message['host'])
                if 'subject' in message:
                    self._said[str(message['subject']), number] = message.get('value')
                self._changed.notify_all()
            if 'stop' in message:
                self.stopping.hear(number, message['stop'], self._send)
            if 'code' in message:
                self._end_as(int(message['code']), str(message.get('sentence')), number)

    def _greet(self, message: dict[str, Any], link: Link) -> int | None:
        """Takes in who says hello; a stranger is left alone."""
        try:
            number, processes = int(message['process']), int(message['processes'])
            link.host = str(message['host'])
        except (KeyError, TypeError, ValueError):
            self._selector.unregister(link.socket)
            link.socket.close()
            return None
        caller = f'a process on {link.host} calls itself process {number} of {processes}'
        if len(self.links) == self.job.processes - 1:
            sentence = (
                f'{caller}, but all {self.job.processes} are there: give another --coordinator.'
            )
            link.send(code=1, sentence=sentence)
            link.finish()
            return None
        if processes != self.job.processes or number in self.links:
            other = self.links.get(number)
            known = f'process {number} is on {other.host}' if other else 'that is not their number'
            self.links[-1] = link  # to be told as well
            self.end(
                1,
                f'{caller}, but {known} here on {self.host}, of {self.job.processes}: give all the '
                'same --processes, and each its own --process.',
            )
        self.links[number] = link
        self._selector.modify(link.socket, selectors.EVENT_READ, (number, link))
        link.send(host=self.host)
        return number

    def _judge(self) -> None:
        """Ends all if somebody has not come or been heard from in time."""
        now = time.monotonic()
        if not self.job.process and now - self._begun > self.timeout:
            missing = [n for n in range(1, self.job.processes) if n not in self.links]
            if missing:
                self.end(LOST, self._missing(missing))
        limit = 0.75 * self.timeout  # so early that all have been told, and left, in time
        silent = [n for n, k in self.links.items() if not k.done and now - k.heard > limit]
        if silent and not self._failing:
            more = f' (nor have {len(silent) - 1} others)' if silent[1:] else ''
            self.end(
                LOST,
                f'{self.name(silent[0])} has not been heard from for {self.timeout:g} s{more}: it '
                'is stopped, or its machine or network is down; --cluster_timeout sets the time. '
                f'{AGAIN}',
            )

    def _missing(self, numbers: list[int]) -> str:
        names = ', '.join(self.name(n) for n in numbers[:8]) + (' …' if numbers[8:] else '')
        return (
            f'{names} did not come within {self.timeout:g} s, and the run needs all '
            f'{self.job.processes}. See why, or set --cluster_timeout higher where machines take '
            'longer to start.'
        )

    def _end_as(self, code: int, sentence: str, number: int) -> None:
        """Ends as another process asks for, unless this one finds the same mistake itself."""
        for other, link in list(self.links.items()):
            if other != number:
                link.send(code=code, sentence=sentence)
        with self._changed:
            if code != LOST:
                self._changed.wait_for(lambda: self._failing, min(GRACE, self.timeout / 4))
            if self._failing:
                return
        self._claim()
        self._exit(code, sentence, everywhere=False)

    def _claim(self) -> None:
        """Makes sure that one thread alone ends the process."""
        with self._changed:
            while self._ending:
                self._changed.wait()  # for the end
            self._ending = True
            self._changed.notify_all()

    def _part(self) -> None:
        """Sees to it that the others get what was sent: closing takes back what is not read yet
        where more comes in."""
        until = time.monotonic() + min(1.0, self.timeout / 10)
        for link in list(self.links.values()):
            link.finish()
        for link in list(self.links.values()):
            with contextlib.suppress(OSError):
                while (left := until - time.monotonic()) > 0:
                    link.socket.settimeout(left)
                    if not link.socket.recv(1 << 16):
                        break

    def _wait(self, subject: str, processes: Any) -> dict[int, Any]:
        keys = [(subject, process) for process in processes]
        with self._changed:
            self._changed.wait_for(lambda: all(key in self._said for key in keys))
            return {key[1]: self._said.pop(key) for key in keys}
