"""The journal: every request with its reply in one SQLite file, so that nothing is asked twice.

A reply is on the disk before it is used. One run at a time has the file; the lock ends with its
process, however that ends. `sqlite3 FILE 'select * from replies'` shows everything afterwards.
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import json
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from belle_jax.api.cost import Lost, Spent
from belle_jax.api.journal_file import as_json, open_file, sentence
from belle_jax.api.request import Reply, Request

# A reply's fields are columns of the same names; `index` is a word of SQL.
FIELDS = [field.name for field in fields(Reply)]
COLUMNS = ', '.join(f'"{name}"' for name in FIELDS)
NAMES = [*FIELDS, 'key', 'request', 'checksum', 'time']
INSERT = (
    f'INSERT INTO replies ({COLUMNS}, key, request, checksum, time) VALUES (:{", :".join(NAMES)})'
)
STORED = f'SELECT {COLUMNS}, checksum, key, request, id FROM replies'
GO_ON = 'mend that, such as a full disk, and run the same command, which goes on from there'
DAMAGED = 'damaged'  # the error of a row that is not what was written
TAKE_OFF = 'INSERT INTO flights VALUES (:id, :index, :key, :tokens, :cost_usd, :time)'
LAND = 'DELETE FROM flights WHERE id = :id'
# Replies that one commit takes together: what came while the disk wrote the last ones.
MOST_PER_COMMIT = 512

_Future = concurrent.futures.Future[None]
# Statements with their values, the reply among them, and who waits for the commit.
_Item = tuple[list[tuple[str, dict[str, Any]]], Reply | None, _Future]


class Journal:
    """Keeps replies; a context manager. Its methods may be called from any thread.

    While it is open nothing else in this process may open the file, not even to copy it: closing
    any handle of a file drops a process's locks on it.

    Attributes:
        path: The file.
        settings: That it was begun with.
        stored: Replies, with requests that were given up and damaged rows: never fewer than before.
        lost: Requests that were at the server when an earlier run was killed.
        damaged: Rows that are not what was written, and so count as missing.
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
        self._db, self.settings = open_file(self.path, settings)
        # One connection for both threads; whole transactions take turns, so that no reader sees
        # what is not committed.
        self._lock = threading.Lock()
        with self._query(
            """SELECT COUNT(*) FILTER (WHERE error = ''), COUNT(*) FILTER (WHERE error = ?),
            COALESCE(MAX("index"), -1), TOTAL(prompt_tokens), TOTAL(completion_tokens),
            TOTAL(cost_usd), COUNT(*) FROM replies""",
            DAMAGED,
        ) as found:
            self._answers, self.damaged, self._last, sent, received, usd, self.stored = (
                found.fetchone()
            )
        self._spent = Spent(int(sent), int(received), usd)
        with self._query(
            'SELECT COUNT(*), TOTAL(tokens), TOTAL(cost_usd), COALESCE(MAX(id), 0) FROM flights'
        ) as found:
            requests, tokens, usd, last = found.fetchone()
        self.lost = Lost(requests, int(tokens), usd)
        self._flights = itertools.count(last + 1)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name='journal', daemon=True)
        self._writer.start()

    def get(self, asked: Request) -> Reply | None:
        """The answer to a request; None if it was not asked, or given up."""
        # Most requests of a run are new, and need not wait while the disk writes.
        if asked.index > self._last:
            return None
        with self._query(
            f"{STORED} WHERE key = ? AND error = '' ORDER BY id", asked.key()
        ) as found:
            rows = found.fetchall()
        return next((entry[1] for entry in map(self._entry, rows) if entry), None)

    def flight(self, asked: Request, tokens: int, cost_usd: float) -> 'Flight':
        """A request on its way, which the journal knows of once it has begun.

        Args:
            asked: The request.
            tokens: The most that it may take.
            cost_usd: Likewise.
        """
        values = {'id': next(self._flights), 'index': asked.index, 'key': asked.key()}
        return Flight(self, values | {'tokens': tokens, 'cost_usd': cost_usd, 'time': time.time()})

    def put(self, asked: Request, reply: Reply, flight: 'Flight | None' = None) -> _Future:
        """Keeps the reply to a request.

        Args:
            asked: The request.
            reply: That came of it.
            flight: Its flight, which has ended.
        Returns:
            Done when the reply is on the disk; only then may it be used. Its exception is an
            OSError if the file could not be written.
        Raises:
            ValueError: if the journal is closed.
        """
        values = vars(reply) | {
            'sent': None if reply.sent is None else as_json(reply.sent),
            'usage': as_json(reply.usage),
        }
        values |= {
            'checksum': _checksum([values[name] for name in FIELDS]),
            'key': asked.key(),
            'request': as_json(asked.body),
            'time': time.time(),
        }
        landing = [(LAND, flight.values)] if flight else []
        return self._queued([(INSERT, values), *landing], reply)

    def _queued(
        self, statements: list[tuple[str, dict[str, Any]]], reply: Reply | None = None
    ) -> _Future:
        """Leaves statements to the writer; returns what is done when they are on the disk."""
        if self._closed:
            raise ValueError(f'{self.path} is closed and takes no more replies.')
        done: _Future = concurrent.futures.Future()
        # As if running: a task that is cancelled while it waits must not take the reply back.
        done.set_running_or_notify_cancel()
        self._queue.put((statements, reply, done))
        return done

    @contextlib.contextmanager
    def _query(self, sql: str, *values: Any) -> Iterator[sqlite3.Cursor]:
        """Runs a query between the writer's transactions."""
        try:
            with self._lock:
                yield self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise sentence(error, getattr(error, 'sqlite_errorname', ''), self.path) from None

    def replies(self) -> Iterator[Reply]:
        """Each request's answer, or else its last failure, in the order of their index."""
        return (reply for _, reply in self.entries())

    def entries(self) -> Iterator[tuple[Request, Reply]]:
        """As `replies`, with the requests."""
        with self._query(
            f"""{STORED} WHERE id IN (
                SELECT COALESCE(MIN(id) FILTER (WHERE error = ''), MAX(id))
                FROM replies WHERE error <> '{DAMAGED}' GROUP BY key
            ) ORDER BY "index", id"""
        ) as cursor:
            pass
        while True:
            with self._lock:
                rows = cursor.fetchmany(500)
            if not rows:
                return
            yield from (entry for entry in map(self._entry, rows) if entry)

    def _entry(self, row: Sequence[Any]) -> tuple[Request, Reply] | None:
        """What a row holds; None, and a mark in the file, if that is not what was written."""
        *values, checksum, key, request, number = row
        try:
            stored = dict(zip(FIELDS, values))
            asked = Request(stored['index'], json.loads(request))
            if asked.key() == key and checksum in (None, _checksum(values)):
                stored['usage'] = json.loads(stored['usage'])
                stored['sent'] = stored['sent'] and json.loads(stored['sent'])
                return asked, Reply(**stored)
        except (ValueError, TypeError, RecursionError):
            pass
        # It is asked again, and what it has cost stays.
        with self._query('UPDATE replies SET error = ? WHERE id = ?', DAMAGED, number):
            self.damaged += 1
        return None

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
            batch = [self._queue.get()]
            while batch[-1] and len(batch) < MOST_PER_COMMIT and not self._queue.empty():
                batch.append(self._queue.get())
            if items := [item for item in batch if item]:
                self._commit(items)
            if batch[-1] is None:
                return

    def _commit(self, batch: list[_Item]) -> None:
        replies = [reply for _, reply, _ in batch if reply]
        try:
            with self._lock:
                # Known before they are there: a reader looks rather once too often.
                self._last = max(self._last, *(reply.index for reply in replies), -1)
                with self._db:
                    self._db.execute('BEGIN IMMEDIATE')
                    for statement, values in itertools.chain.from_iterable(s for s, _, _ in batch):
                        self._db.execute(statement, values)
        except Exception as error:
            for _, _, done in batch:
                done.set_exception(OSError(f'{self.path} cannot be written ({error}): {GO_ON}.'))
            return
        self.stored += len(replies)
        self._answers += sum(not reply.error for reply in replies)
        self._spent = Spent(
            self._spent.prompt_tokens + sum(reply.prompt_tokens for reply in replies),
            self._spent.completion_tokens + sum(reply.completion_tokens for reply in replies),
            self._spent.cost_usd + sum(reply.cost_usd for reply in replies),
        )
        for _, _, done in batch:
            done.set_result(None)


@dataclass
class Flight:
    """A request on its way: in the journal from before it is sent until its reply is kept."""

    journal: Journal
    values: dict[str, Any]

    async def begin(self) -> None:
        """Keeps, on the disk, that it is sent."""
        await asyncio.wrap_future(self.journal._queued([(TAKE_OFF, self.values)]))

    def withdraw(self) -> None:
        """It came to nothing, and nothing of it is at the server."""
        self.journal._queued([(LAND, self.values)])


def _checksum(values: Sequence[Any]) -> int:
    return zlib.crc32(json.dumps(values).encode())
