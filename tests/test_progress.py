"""The line of long work: what it says, how often, and where."""

import pytest

from belle_jax import progress
from belle_jax.progress import Line, Progress, duration, usd


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""

    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, 'time', clock)
    return clock


@pytest.fixture
def terminal(monkeypatch, capsys):
    monkeypatch.setattr(type(progress.sys.stderr), 'isatty', lambda _: True, raising=False)
    monkeypatch.setenv('COLUMNS', '30')
    return capsys


def test_a_log_file_gets_a_line_now_and_then(clock, capsys):
    work = Progress('Making', 'MB')
    for second in range(1, 61):
        clock.now = 100 + second
        work.show(20 * second, second / 60)
    work.end(1200)
    assert capsys.readouterr().err == (
        'Making: 25%, 20 MB/s, 45 s left\n'
        'Making: 50%, 20 MB/s, 30 s left\n'
        'Making: 75%, 20 MB/s, 15 s left\n'
        'Making: 100%, 20 MB/s, 0 s left\n'
        'Making: 1,200 MB in 60 s\n'
    )


def test_with_a_total_what_was_done_before_says_nothing_of_the_rate(clock, capsys):
    work = Progress('Answering', 'rows', total=1000, before=900)
    clock.now += 20
    work.show(950, tokens=4000)
    assert capsys.readouterr().err == (
        'Answering: 950/1,000 rows, 2.5 rows/s, 200 tokens/s, 20 s left\n'
    )


def test_short_work_and_unwanted_lines_are_silent(clock, capsys):
    work = Progress('Making', 'MB')
    clock.now += 0.5
    work.show(1, 0.5)
    work.end(2)
    line = Line(wanted=False)
    clock.now += 100
    assert not line.due
    line.show('text')
    line.say('text')
    line.end()
    assert capsys.readouterr().err == ''


def test_a_terminal_has_one_line_that_is_written_over_and_texts_above_it(clock, terminal):
    line = Line()
    clock.now += 1
    assert line.due and line.live
    line.show('x' * 50)
    assert not line.due
    line.say('evaluated')
    line.show('done', last=True)
    line.end()
    shown = '\r\033[K' + 'x' * 29
    assert terminal.readouterr().err == f'{shown}\r\033[Kevaluated\n{"x" * 29}\r\033[Kdone\n'
    line.show('again')
    line.end()
    assert terminal.readouterr().err == '\r\033[Kagain\n'


def test_durations_are_for_people():
    assert [duration(s) for s in (0, 59.9, 250, 36_061)] == [
        '0:00:00', '0:00:59', '0:04:10', '10:01:01',
    ]  # fmt: skip


def test_money_has_as_many_digits_as_say_something():
    amounts = (1234.5, 12.345, 0.5, 0.0942, 0.0042, 0.000012, 0)
    shown = ['$1,234', '$12.35', '$0.50', '$0.094', '$0.0042', '$0.000012', '$0']
    assert [usd(amount) for amount in amounts] == shown
