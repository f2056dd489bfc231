"""However many signals ask a program to end, and however close, it is one request."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from belle_jax import signals

ROOT = Path(__file__).resolve().parents[1]
KINDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.mark.parametrize('first', KINDS)
def test_many_signals_are_one_request_and_a_late_ctrl_c_ends_at_once(monkeypatch, first):
    asked, before = [], [signal.getsignal(n) for n in KINDS]
    clock = iter([0.0, *[0.5] * 3, *[9.0] * 3])
    monkeypatch.setattr(signals.time, 'monotonic', lambda: next(clock))
    with signals.heeding(lambda: asked.append(1)):
        signal.raise_signal(first)
        for number in (*KINDS, *KINDS[:2]):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == [1] and [signal.getsignal(n) for n in KINDS] == before


def test_what_the_inner_block_was_asked_is_not_asked_again_of_the_outer_one():
    inner, outer = [], []
    for _ in range(2):  # and a later block begins anew
        with signals.heeding(lambda: outer.append(1)):
            with signals.heeding(lambda: inner.append(1)):
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
    assert inner == [1, 1] and outer == []


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.heeding(signals.interrupt):
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
            signals.as_usual()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ('code', 'said'),
    [
        ('signal.raise_signal(signal.SIGINT)', 'belle-jax: stopped before it began.\n'),
        (
            'def main(): signal.raise_signal(signal.SIGHUP)\ncli.run(main)',
            'belle-jax: interrupted; nothing is left half written.\n',
        ),
        (
            'def main(): open("/absent/a")\ncli.run(main)',
            'belle-jax: /absent/a cannot be used (no such file or directory): look at the name, '
            'or give another.\n',
        ),
    ],
)
def test_what_ends_a_program_is_a_sentence_also_while_it_is_loaded(code, said):
    command = [sys.executable, '-c', f'import signal\nfrom belle_jax import cli\n{code}']
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode and ended.stderr == said
