"""Runs of `python -m belle_jax.generate_data` against the test server in a thread of its own."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import programs
from api_runs import ROOT, environment
from api_server import FAULTS, Server

KEY = environment()['OPENAI_API_KEY']
PROGRAM = [sys.executable, '-m', 'belle_jax.generate_data']
# A server that misbehaves in every way, once for a request; but for hanging, which takes a time-out
# to notice, and a time-out that is short also takes answers for lost while the machine is busy.
WAYS = tuple(fault for fault in FAULTS if fault != 'hang')
BAD: dict[str, Any] = {'fault_rate': 0.3, 'most_faults': 1, 'retry_after': '0.1', 'faults': WAYS}


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Server]:
    """The test server, with options as `Server` has them, until the block ends."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    server, end = Server(**options), asyncio.Event()

    async def serve() -> None:
        async with server:
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def start(*flags: Any, key: str | None = KEY, cwd: Path | None = None) -> programs.Heard:
    """Starts the program.

    Args:
        flags: Of it.
        key: The environment's; None: there is none.
        cwd: Its working directory; by default this process's.
    """
    command = [*PROGRAM, *map(str, flags)]
    return programs.Heard(command, cwd=cwd or Path.cwd(), env=_environment(key))


def start_piped(
    *flags: Any, key: str | None = KEY, preexec_fn: Callable[[], Any] | None = None
) -> subprocess.Popen[str]:
    """As `start`, in an interpreter of its own, whose output may be read while it runs.

    Args:
        flags: Of the program.
        key: The environment's; None: there is none.
        preexec_fn: As Popen's.
    """
    return subprocess.Popen(
        [*PROGRAM, *map(str, flags)],
        env=_environment(key),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec_fn,
    )


def _environment(key: str | None) -> dict[str, str]:
    named = environment() | ({'OPENAI_API_KEY': key} if key else {})
    if key is None:
        del named['OPENAI_API_KEY']
    return named | {'PYTHONPATH': str(ROOT)}


def finish(process: programs.Heard | subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Waits for the end of a run.

    Args:
        process: As `start` gave it.
        code: That it must end with.
    Returns:
        What it wrote to standard output and to standard error.
    """
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, output + errors
    assert 'Traceback' not in errors, errors
    assert KEY not in output + errors
    return output, errors


def run(*flags: Any, code: int = 0, **options: Any) -> tuple[str, str]:
    """A whole run: `start` and `finish`."""
    return finish(start(*flags, **options), code)


def fails(*flags: Any, **options: Any) -> str:
    """A run that a mistake ends: the sentence, which is all that it says on standard error."""
    _, errors = run(*flags, code=1, **options)
    assert errors.startswith('belle_jax.generate_data: ') and errors.count('\n') == 1, errors
    return errors


def journaled(path: Path) -> list[tuple]:
    """All replies of a journal that nobody has open."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute('SELECT id, key, text, error FROM replies ORDER BY id').fetchall()
