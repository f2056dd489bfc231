"""What a run writes of each step."""

import time

from belle_jax.runs.run_directory import read_metrics
from belle_jax.training import metrics

STEP = {'loss': 2.5, 'tokens_per_second': 9.0, 'learning_rate': 1e-3, 'grad_norm': float('nan')}


def recorded(directory, first_step, steps):
    recorder = metrics.Recorder(directory, first_step, 4, '', {})
    for step in steps:
        recorder.write(step, STEP)
    recorder.close()
    return read_metrics(recorder.path)[0]


def test_each_line_has_the_time_at_which_it_was_written(tmp_path):
    before = time.time()
    first = recorded(tmp_path, 0, [1, 2, 3])
    assert [r['step'] for r in first] == [1, 2, 3] and first[0]['grad_norm'] is None
    times = [r['time'] for r in first]
    assert before - 0.001 <= times[0] <= times[1] <= times[2] <= time.time() + 0.001
    # What is kept of a run that is continued keeps its time.
    again = recorded(tmp_path, 2, [3, 4])
    assert again[:2] == first[:2] and [r['step'] for r in again] == [1, 2, 3, 4]
    assert again[2]['time'] >= times[2]


def test_a_damaged_line_is_put_aside_and_the_ones_behind_it_stay(tmp_path, capsys):
    recorded(tmp_path, 0, [1, 2, 3, 4])
    path = tmp_path / 'metrics.jsonl'
    first, second, *rest = path.read_bytes().splitlines(keepends=True)
    damaged = [
        b'[]\n',
        second.replace(b'"step": 2', b'"step": \xff'),
        b'null\n',
        b'{"step": NaN}\n',
    ]
    path.write_bytes(b''.join([first, *damaged, *rest]) + b'{"step": 5, "lo')
    assert [r['step'] for r in recorded(tmp_path, 4, [])] == [1, 3, 4]
    aside = tmp_path / 'metrics.damaged.jsonl'
    assert aside.read_bytes() == b''.join(damaged)
    assert f'4 damaged lines were put into {aside}' in ' '.join(capsys.readouterr())
