"""The journal: every request with its reply in one SQLite file, so that nothing is asked twice.

A reply is on the disk before it is used. One run at a time has the file; the lock ends with its
process, however that ends. `sqlite3 FILE 'select * from replies'` shows everything afterwards.
"""

import concurrent.futures
import json
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from belle_jax.api.request import Reply, Request, Spent

# What says that a SQLite file is a journal: "BELJ", and the version of its tables.
APPLICATION, VERSION = 0x42454C4A, 1
TABLES = (
    'CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)',
    # Given-up requests stay, for what they cost; so a key may have several rows.
    """CREATE TABLE replies (
        id INTEGER PRIMARY KEY, "index" INTEGER NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
        sent TEXT, text TEXT NOT NULL, finish_reason TEXT, prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, usage TEXT NOT NULL,
        error TEXT NOT NULL, attempts INTEGER NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL
    )""",
    'CREATE INDEX keys ON replies (key)',
    'CREATE INDEX indices ON replies ("index")',
)
# A reply's fields are columns of the same names; `index` is a word of SQL.
FIELDS = [field.name for field in fields(Reply)]
COLUMNS = ', '.join(f'"{name}"' for name in FIELDS)
NAMES = [*FIELDS, 'key', 'request', 'time']
INSERT = f'INSERT INTO replies ({COLUMNS}, key, request, time) VALUES (:{", :".join(NAMES)})'
ANSWERS = f"SELECT {COLUMNS} FROM replies WHERE key = ? AND error = '' ORDER BY id"
# Replies that one commit takes together: what came while the disk wrote the last ones.
MOST_PER_COMMIT = 512
ATTEMPTS = 10  # at opening a file that another process holds
BUSY = 'SQLITE_BUSY', 'SQLITE_LOCKED'

_Future = concurrent.futures.Future[None]
_Item = tuple[dict[str, Any], Reply, _Future]


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
        self._db, self.settings = _open(self.path, settings)
        # One connection for both threads; whole transactions take turns, so that no reader sees
        # what is not committed.
        self._lock = threading.Lock()
        self._answers, self._last, sent, received, usd = self._db.execute(
            """SELECT COUNT(*) FILTER (WHERE error = ''), COALESCE(MAX("index"), -1),
            TOTAL(prompt_tokens), TOTAL(completion_tokens), TOTAL(cost_usd) FROM replies"""
        ).fetchone()
        self._spent = Spent(int(sent), int(received), usd)
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._write, name='journal', daemon=True)
        self._writer.start()

    def get(self, asked: Request) -> Reply | None:
        """The answer to a request; None if it was not asked, or given up."""
        # Most requests of a run are new, and need not wait while the disk writes.
        if asked.index > self._last:
            return None
        with self._lock:
            row = self._db.execute(ANSWERS, (asked.key(),)).fetchone()
        return None if row is None else _reply(row)

    def put(self, asked: Request, reply: Reply) -> _Future:
        """Keeps the reply to a request.

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
        values = vars(reply) | {
            'sent': None if reply.sent is None else _json(reply.sent),
            'usage': _json(reply.usage),
            'key': asked.key(),
            'request': _json(asked.body),
            'time': time.time(),
        }
        self._queue.put((values, reply, done))
        return done

    def replies(self) -> Iterator[Reply]:
        """Each request's answer, or else its last failure, in the order of their index."""
        return (reply for _, reply in self.entries())

    def entries(self) -> Iterator[tuple[Request, Reply]]:
        """As `replies`, with the requests."""
        with self._lock:
            cursor = self._db.execute(
                f"""SELECT {COLUMNS}, request FROM replies WHERE id IN (
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
                reply = _reply(row[:-1])
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
            batch = [self._queue.get()]
            while batch[-1] and len(batch) < MOST_PER_COMMIT and not self._queue.empty():
                batch.append(self._queue.get())
            if items := [item for item in batch if item]:
                self._commit(items)
            if batch[-1] is None:
                return

    def _commit(self, batch: list[_Item]) -> None:
        replies = [reply for _, reply, _ in batch]
        try:
            with self._lock:
                # Known before they are there: a reader looks rather once too often.
                self._last = max(self._last, *(reply.index for reply in replies))
                with self._db:
                    self._db.execute('BEGIN IMMEDIATE')
                    self._db.executemany(INSERT, [values for values, _, _ in batch])
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


def _open(path: Path, settings: dict[str, Any] | None) -> tuple[sqlite3.Connection, dict[str, Any]]:
    """Opens the file for this process alone, or makes it; with its settings."""
    if settings is None and not path.is_file():
        raise FileNotFoundError(f'there is no journal {path}.')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'{path}: the folder {path.parent} does not exist; make it first.')
    # Two that start at the same moment may stop each other; a process that was just killed may take
    # a moment to be gone. So a locked file is tried again, for about two seconds.
    left = ATTEMPTS
    while True:
        db = None
        try:
            db = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
            return db, _prepare(db, path, settings)
        except BaseException as error:
            if db is not None:
                db.close()
            if not isinstance(error, sqlite3.Error):
                raise
            left -= 1
            name = getattr(error, 'sqlite_errorname', '')
            if not left or not name.startswith(BUSY):
                raise _sentence(error, name, path) from None
        time.sleep(random.uniform(0.05, 0.35))


def _prepare(db: sqlite3.Connection, path: Path, settings: dict[str, Any] | None) -> dict[str, Any]:
    """Takes the lock, makes the tables of a new file, compares the settings of an old one."""
    # The first access takes a lock that stays until the process ends.
    db.execute('PRAGMA locking_mode = EXCLUSIVE')
    application = db.execute('PRAGMA application_id').fetchone()[0]
    empty = not db.execute('SELECT COUNT(*) FROM sqlite_master').fetchone()[0]
    if application != APPLICATION and (application or not empty or settings is None):
        raise ValueError(f'{path} is a database, but no journal: give the name of a new file.')
    version = db.execute('PRAGMA user_version').fetchone()[0]
    if not empty and version != VERSION:
        raise ValueError(
            f'{path} is a journal of version {version}, and this program writes version {VERSION}: '
            f'use the program that made it, or a new file.'
        )
    db.execute('PRAGMA journal_mode = WAL')
    # Not even a power cut loses what was committed; commits are shared, so this costs little.
    db.execute('PRAGMA synchronous = FULL')
    db.execute('BEGIN EXCLUSIVE')
    if empty:
        for table in TABLES:
            db.execute(table)
    # A journal without replies belongs to nobody yet: its first run may have asked for a model that
    # does not exist.
    used = db.execute('SELECT EXISTS (SELECT * FROM replies)').fetchone()[0]
    if not used and settings is not None:
        db.execute('DELETE FROM settings')
        values = [(name, _json(value)) for name, value in settings.items()]
        db.executemany('INSERT INTO settings VALUES (?, ?)', values)
        db.execute(f'PRAGMA application_id = {APPLICATION}')
        db.execute(f'PRAGMA user_version = {VERSION}')
    db.execute('COMMIT')
    kept = {name: json.loads(value) for name, value in db.execute('SELECT * FROM settings')}
    if settings is None:
        return kept
    for name in settings | kept:
        sides = [_json(side[name]) if name in side else 'nothing' for side in (kept, settings)]
        if sides[0] != sides[1]:
            old, new = (text if len(text) <= 80 else text[:77] + '...' for text in sides)
            raise ValueError(
                f'{path} was begun with {name} = {old}, and this run has {name} = '
                f'{new}: its replies answer other requests. Set {name} as it was, or give '
                f'this run a journal of its own.'
            )
    return kept


def _sentence(error: sqlite3.Error, name: str, path: Path) -> Exception:
    """What an error of SQLite means for a person."""
    if name.startswith(BUSY):
        return ValueError(
            f'another run is using {path}, and a journal belongs to one run at a time: wait until '
            f'it has ended, or give this run a journal of its own.'
        )
    if name.startswith(('SQLITE_NOTADB', 'SQLITE_CORRUPT')):
        return ValueError(
            f'{path} is not a journal, or it is damaged ({error}): give the name of a new file, or '
            f'put the journal back from a copy.'
        )
    return OSError(f'{path} cannot be opened as a journal: {error}.')


def _reply(row: tuple[Any, ...]) -> Reply:
    values = dict(zip(FIELDS, row))
    values['usage'] = json.loads(values['usage'])
    values['sent'] = values['sent'] and json.loads(values['sent'])
    return Reply(**values)


def _json(value: Any) -> str:
    """JSON that reads well in the file; escaped where half a character is in it, which SQLite
    would not take."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True)
    return text
