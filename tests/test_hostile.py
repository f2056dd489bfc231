"""Whatever is damaged or made to harm: one sentence, the right result, or bytes without a sum."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def good_ends(folder: Path, state: Path, step: int) -> int:
    """How many cases ended well; a process without JAX's threads forks a child for each."""
    pytest.importorskip('torch')
    command = [sys.executable, ROOT / 'tests/support/hostile.py', folder / 'all', state, str(step)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not said.returncode and not said.stdout, said.stdout + said.stderr
    return len(json.loads(state.read_text())['done'])


def test_every_twentieth_damaged_or_hostile_input_has_a_good_end(tmp_path):
    assert good_ends(tmp_path, tmp_path / 'state.json', 20) == 30


@pytest.mark.soak
def test_every_damaged_or_hostile_input_has_a_good_end(tmp_path):
    """Goes on where it was stopped; beside its state is the table of docs/robustness.md."""
    (ROOT / 'build').mkdir(exist_ok=True)
    assert good_ends(tmp_path, ROOT / 'build' / 'hostile.json', 1) == 600
