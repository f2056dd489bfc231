"""The SQLite file of a journal: opening it for one run alone, its tables, and what errors mean."""

import json
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

from belle_jax.api.answer import split_thoughts

# What says that a SQLite file is a journal: "BELJ", and the version of its tables.
APPLICATION, VERSION = 0x42454C4A, 2
TABLES = (
    'CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)',
    # As in version 1. Given-up requests stay, for what they cost; so a key may have several rows.
    """CREATE TABLE replies (
        id INTEGER PRIMARY KEY, "index" INTEGER NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
        sent TEXT, text TEXT NOT NULL, finish_reason TEXT, prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, usage TEXT NOT NULL,
        error TEXT NOT NULL, attempts INTEGER NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL
    )""",
    'CREATE INDEX keys ON replies (key)',
    'CREATE INDEX indices ON replies ("index")',
)
# Version 2. A reply of version 1 has no checksum. A flight is a request that was sent and has no
# reply yet, with the most that it may take; one that is there at opening was lost.
ADDED = (
    "ALTER TABLE replies ADD COLUMN thoughts TEXT NOT NULL DEFAULT ''",
    'ALTER TABLE replies ADD COLUMN checksum INTEGER',
    """CREATE TABLE flights (id INTEGER PRIMARY KEY, "index" INTEGER NOT NULL, key TEXT NOT NULL,
    tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, time REAL NOT NULL)""",
)
ATTEMPTS = 10  # at opening a file that another process holds
BUSY = 'SQLITE_BUSY', 'SQLITE_LOCKED'


def open_file(
    path: Path, settings: dict[str, Any] | None
) -> tuple[sqlite3.Connection, dict[str, Any]]:
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
            # What is no text any more is told by its checksum.
            db.text_factory = lambda content: content.decode('utf-8', 'replace')
            return db, _prepare(db, path, settings)
        except BaseException as error:
            if db is not None:
                db.close()
            if not isinstance(error, sqlite3.Error):
                raise
            left -= 1
            name = getattr(error, 'sqlite_errorname', '')
            if not left or not name.startswith(BUSY):
                raise sentence(error, name, path) from None
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
    if not empty and version not in (1, VERSION):
        raise ValueError(
            f'{path} is a journal of version {version}, and this program writes version {VERSION}: '
            f'use the program that made it, or a new file.'
        )
    db.execute('PRAGMA journal_mode = WAL')
    # Not even a power cut loses what was committed; commits are shared, so this costs little.
    db.execute('PRAGMA synchronous = FULL')
    db.execute('BEGIN EXCLUSIVE')
    for change in (*(TABLES if empty else ()), *(ADDED if empty or version < VERSION else ())):
        db.execute(change)
    if not empty and version < VERSION:
        _take_thoughts_out(db)
    db.execute(f'PRAGMA user_version = {VERSION}')
    # A journal without replies belongs to nobody yet: its first run may have asked for a model that
    # does not exist.
    used = db.execute('SELECT EXISTS (SELECT * FROM replies)').fetchone()[0]
    if not used and settings is not None:
        db.execute('DELETE FROM settings')
        values = [(name, as_json(value)) for name, value in settings.items()]
        db.executemany('INSERT INTO settings VALUES (?, ?)', values)
        db.execute(f'PRAGMA application_id = {APPLICATION}')
    db.execute('COMMIT')
    try:
        kept = {name: json.loads(value) for name, value in db.execute('SELECT * FROM settings')}
    except (ValueError, TypeError, RecursionError):
        raise sqlite3.DatabaseError('its settings cannot be read') from None
    if settings is None:
        return kept
    for name in settings | kept:
        sides = [as_json(side[name]) if name in side else 'nothing' for side in (kept, settings)]
        if sides[0] != sides[1]:
            old, new = (text if len(text) <= 80 else text[:77] + '...' for text in sides)
            raise ValueError(
                f'{path} was begun with {name} = {old}, and this run has {name} = '
                f'{new}: its replies answer other requests. Set {name} as it was, or give '
                f'this run a journal of its own.'
            )
    return kept


def _take_thoughts_out(db: sqlite3.Connection) -> None:
    """Version 1 kept a reasoning model's drafts in its answers."""
    for number, said in db.execute('SELECT id, text FROM replies').fetchall():
        thoughts, text, _ = split_thoughts(said)
        if thoughts:
            change = 'UPDATE replies SET text = ?, thoughts = ? WHERE id = ?'
            db.execute(change, (text, thoughts, number))


def sentence(error: sqlite3.Error, name: str, path: Path) -> Exception:
    """What an error of SQLite means for a person."""
    if name.startswith(BUSY):
        return ValueError(
            f'another run is using {path}, and a journal belongs to one run at a time: wait until '
            f'it has ended, or give this run a journal of its own.'
        )
    if name.startswith(('SQLITE_NOTADB', 'SQLITE_CORRUPT')) or not name:
        return ValueError(
            f'{path} is not a journal, or it is damaged ({error}): give the name of a new file, or '
            f'put the journal back from a copy.'
        )
    return OSError(
        f'{path} cannot be opened as a journal ({error}): look at permissions and room in its '
        'folder, or name a journal elsewhere.'
    )


def as_json(value: Any) -> str:
    """JSON that reads well; escaped where half a character is in it, which SQLite does not take."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True)
    return text
