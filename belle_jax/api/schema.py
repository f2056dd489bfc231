"""The journal's file: its tables, opening it, and rows from and to replies."""

import json
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

from belle_jax.api.request import Reply, Request

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
ATTEMPTS = 10
COLUMNS = (
    '"index", text, finish_reason, prompt_tokens, completion_tokens, cost_usd, error, sent, usage, '
    'attempts, seconds'
)
INSERT = f'INSERT INTO replies ({COLUMNS}, key, request, time) VALUES ({", ".join("?" * 14)})'


class BusyError(ValueError):
    """Another run has the file."""


def open_journal(
    path: Path, settings: dict[str, Any] | None
) -> tuple[sqlite3.Connection, dict[str, Any]]:
    """Opens the file for this process alone, and makes it if there is none.

    Args:
        path: The file.
        settings: That it must have, or None for any.
    Returns:
        The connection, and the file's settings.
    Raises:
        ValueError: for another file, other settings, or a file in use.
        OSError: for a file that cannot be opened.
    """
    if settings is None and not path.is_file():
        raise FileNotFoundError(f'there is no journal {path}.')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'{path}: the folder {path.parent} does not exist; make it first.')
    # Two that start at the same moment may stop each other; a process that was just killed may take
    # a moment to be gone. So a locked file is tried again, for about two seconds.
    for _ in range(ATTEMPTS - 1):
        try:
            return _open(path, settings)
        except BusyError:
            time.sleep(random.uniform(0.05, 0.35))
    return _open(path, settings)


def _open(path: Path, settings: dict[str, Any] | None) -> tuple[sqlite3.Connection, dict[str, Any]]:
    """One try of `open_journal`; a file in use is a BusyError."""
    db = None
    try:
        db = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        return db, _prepare(db, path, settings)
    except BaseException as error:
        if db is not None:
            db.close()
        if isinstance(error, sqlite3.Error):
            raise _sentence(error, path) from None
        raise


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
    unused = not db.execute('SELECT EXISTS (SELECT * FROM replies)').fetchone()[0]
    if empty or (unused and settings is not None):
        db.execute('DELETE FROM settings')
        values = [(name, _json(value)) for name, value in (settings or {}).items()]
        db.executemany('INSERT INTO settings VALUES (?, ?)', values)
        db.execute(f'PRAGMA application_id = {APPLICATION}')
        db.execute(f'PRAGMA user_version = {VERSION}')
    db.execute('COMMIT')
    kept = {name: json.loads(value) for name, value in db.execute('SELECT * FROM settings')}
    if settings is not None:
        _compare(path, kept, settings)
    return kept


def _compare(path: Path, kept: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuses settings that would make other requests than those whose replies are kept."""
    for name in [*given, *(name for name in kept if name not in given)]:
        old, new = (_json(side[name]) if name in side else 'nothing' for side in (kept, given))
        if old != new:
            raise ValueError(
                f'{path} was begun with {name} = {_short(old)}, and this run has {name} = '
                f'{_short(new)}: its replies answer other requests. Set {name} as it was, or give '
                f'this run a journal of its own.'
            )


def _sentence(error: sqlite3.Error, path: Path) -> Exception:
    """What an error of SQLite means for a person."""
    name = getattr(error, 'sqlite_errorname', '')
    if name.startswith(('SQLITE_BUSY', 'SQLITE_LOCKED')):
        return BusyError(
            f'another run is using {path}, and a journal belongs to one run at a time: wait until '
            f'it has ended, or give this run a journal of its own.'
        )
    if name.startswith(('SQLITE_NOTADB', 'SQLITE_CORRUPT')):
        return ValueError(
            f'{path} is not a journal, or it is damaged ({error}): give the name of a new file, or '
            f'put the journal back from a copy.'
        )
    return OSError(f'{path} cannot be opened as a journal: {error}.')


def row(asked: Request, reply: Reply, now: float) -> tuple[Any, ...]:
    """The values of INSERT.

    Args:
        asked: The request.
        reply: Its reply.
        now: Seconds since 1970.
    Returns:
        One value for each column.
    """
    return (
        asked.index,
        reply.text,
        reply.finish_reason,
        reply.prompt_tokens,
        reply.completion_tokens,
        reply.cost_usd,
        reply.error,
        None if reply.sent is None else _json(reply.sent),
        _json(reply.usage),
        reply.attempts,
        reply.seconds,
        asked.key(),
        _json(asked.body),
        now,
    )


def reply(row: tuple[Any, ...]) -> Reply:
    """A reply from COLUMNS.

    Args:
        row: Its values.
    Returns:
        As it was put.
    """
    sent, usage, attempts, seconds = row[7:]
    return Reply(
        *row[:7],
        sent=None if sent is None else json.loads(sent),
        usage=json.loads(usage),
        attempts=attempts,
        seconds=seconds,
    )


def _json(value: Any) -> str:
    """JSON that reads well in the file; escaped where half a character is in it, which SQLite
    would not take."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True)
    return text


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + '...'
