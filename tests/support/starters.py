"""Running what is in launch/: the scripts, their dry runs, and the programs that check them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / 'launch'
SETTINGS = (
    'COORDINATOR',
    'MACHINES',
    'RESTARTS',
    'PAUSE',
    'NAME',
    'ZONE',
    'TYPE',
    'SPOT',
    'PYTHON',
)


def call(script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of launch/ from the root; its settings are what `variables` says alone."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in SETTINGS and not name.startswith('SLURM')
    }
    return subprocess.run(
        [LAUNCH / script, *words],
        cwd=ROOT,
        env=inherited | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def planned(script: str, *words: str, **variables: str) -> list[list[str]]:
    """The words of each command that a script would run."""
    done = call(script, '--dry_run', *words, **variables)
    assert (done.returncode, done.stderr) == (0, ''), done.stderr
    # The shell that quoted them reads them: Python does not know its $'...'.
    apart = 'printf "%s\\0" '
    printed = [subprocess.check_output(['bash', '-c', apart + c]) for c in done.stdout.splitlines()]
    return [words.decode().split('\0')[:-1] for words in printed]


def stub(path: Path, body: str) -> Path:
    """A program of a few lines of shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/usr/bin/env bash\n{body}\n')
    path.chmod(0o755)
    return path


def tool(name: str, remedy: str) -> str:
    """The path of a program, beside Python or on PATH; skips the test where there is none.

    Args:
        name: Of the program.
        remedy: What brings it.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')])
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f'no {name} here ({remedy})')
    return found
