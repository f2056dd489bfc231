"""The journal: every request with its reply in one SQLite file, so that nothing is asked twice.

A reply is on the disk before it is used. One run at a time has the file; the lock ends with its
process, however that ends. `sqlite3 FILE 'select * from replies'` shows everything afterwards.
"""

import concurrent.futures
import json
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from belle_jax.api import schema
from belle_jax.api.request import Reply, Request

# Replies that one commit takes together: what came while the disk wrote the last ones.
MOST_PER_COMMIT = 512


class Spent(NamedTuple):
    """What a journal's requests took, those that were given up included."""

    prompt_tokens: int
    completion_tokens: int
    cost_usd: float

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


_Future = concurrent.futures.Future[None]


class Journal:
    """Keeps replies; a context manager. Its methods may be called from any thread.

    While it is open nothing else in this process may open the file, not even to copy it: closing
    any handle of a file drops a process's locks on it.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any] | None = None) -> None:
        """Opens a journal, or makes one.

        Args:
            path: The file; beside it there is PATH-wal while a run goes on.
            settings: Everything that decides what request a given index makes. Values that JSON
                knows. None takes an existing journal with whatever settings it has.
        Raises:
            ValueError: for a file that is not a journal, a journal of other settings, or one that
                another run uses.
            OSError: for a file that cannot be written.
        """
        self.path = Path(path)
        self._db, self.settings = schema.open_journal(self.path, settings)
        # One connection for both threads; whole transactions take turns, so that no reader sees
        # what is not committed.
        self._lock = threading.Lock()
        row = self._db.execute(
            """SELECT COUNT(*) FILTER (WHERE error = ''), MAX("index"), TOTAL(prompt_tokens),
            TOTAL(completion_tokens), TOTAL(cost_usd) FROM replies"""
        ).fetchone()
        self._answers, self._last = row[0], -1 if row[1] is None else row[1]
        self._spent = Spent(int(row[2]), int(row[3]), row[4])
        self._queue: queue.SimpleQueue[tuple[tuple[Any, ...], Reply, _Future] | None]
        self._queue = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name='journal', daemon=True)
        self._writer.start()

    def get(self, asked: Request) -> Reply | None:
        """The answer to a request.

        Args:
            asked: The request.
        Returns:
            Its reply, or None if it was not asked, or given up.
        """
        # Most requests of a run are new, and need not wait while the disk writes.
        if asked.index > self._last:
            return None
        with self._lock:
            row = self._db.execute(
                f"SELECT {schema.COLUMNS} FROM replies WHERE key = ? AND error = '' ORDER BY id",
                (asked.key(),),
            ).fetchone()
        return None if row is None else schema.reply(row)

    def put(self, asked: Request, reply: Reply) -> _Future:
        """Keeps a reply.

        Args:
            asked: The request.
            reply: What came of it.
        Returns:
            Done when the reply is on the disk; only then may it be used. Its exception is an
            OSError if the file could not be written.
        Raises:
            ValueError: if the journal is closed.
        """
        if self._closed:
            raise ValueError(f'{self.path} is closed and takes no more replies.')
        done: _Future = concurrent.futures.Future()
        # As if running: a task that is cancelled while it waits must not take the reply back.
        done.set_running_or_notify_cancel()
        self._queue.put((schema.row(asked, reply, time.time()), reply, done))
        return done

    def replies(self) -> Iterator[Reply]:
        """All replies in the order of their index, given-up requests with their error.

        Yields:
            One reply for each request: its answer, or what was wrong at the last try.
        """
        return (reply for _, reply in self.entries())

    def entries(self) -> Iterator[tuple[Request, Reply]]:
        """As `replies`, with the requests.

        Yields:
            Each request with its reply.
        """
        with self._lock:
            cursor = self._db.execute(
                # A request's answer, as `get` gives it, or else its last failure.
                f"""SELECT {schema.COLUMNS}, request FROM replies WHERE id IN (
                    SELECT COALESCE(MIN(id) FILTER (WHERE error = ''), MAX(id))
                    FROM replies GROUP BY key
                ) ORDER BY "index", id"""
            )
        while True:
            with self._lock:
                rows = cursor.fetchmany(500)
            if not rows:
                return
            for row in rows:
                reply = schema.reply(row[:-1])
                yield Request(reply.index, json.loads(row[-1])), reply

    def __len__(self) -> int:
        """Answers, without requests that were given up."""
        return self._answers

    def spent(self) -> Spent:
        """What all requests took so far, of earlier runs too."""
        return self._spent

    def __enter__(self) -> 'Journal':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is waiting and lets the file go."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._db.close()

    def _write(self) -> None:
        """The writer's thread: commits together what came while it committed the last ones."""
        while True:
            first = self._queue.get()
            batch, ended = [first] if first else [], first is None
            while not ended and len(batch) < MOST_PER_COMMIT and not self._queue.empty():
                item = self._queue.get()
                if item is None:
                    ended = True
                else:
                    batch.append(item)
            if batch:
                self._commit(batch)
            if ended:
                return

    def _commit(self, batch: list[tuple[tuple[Any, ...], Reply, _Future]]) -> None:
        replies = [reply for _, reply, _ in batch]
        try:
            with self._lock:
                # Known before they are there: a reader looks rather once too often.
                self._last = max(self._last, *(reply.index for reply in replies))
                self._db.execute('BEGIN IMMEDIATE')
                try:
                    self._db.executemany(schema.INSERT, [row for row, _, _ in batch])
                    self._db.execute('COMMIT')
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute('ROLLBACK')
                    raise
        except Exception as error:
            for _, _, done in batch:
                done.set_exception(OSError(f'{self.path} cannot be written: {error}.'))
            return
        self._answers += sum(not reply.error for reply in replies)
        self._spent = Spent(
            self._spent.prompt_tokens + sum(reply.prompt_tokens for reply in replies),
            self._spent.completion_tokens + sum(reply.completion_tokens for reply in replies),
            self._spent.cost_usd + sum(reply.cost_usd for reply in replies),
        )
        for _, _, done in batch:
            done.set_result(None)
