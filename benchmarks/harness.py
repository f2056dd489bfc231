"""lm-evaluation-harness's requests a second, by our models and by its backend for transformers.

    python -m benchmarks.harness --model=runs/small/llama --model=runs/small/bloom

The models are those of benchmarks.small_models, or any Hugging Face directories; the questions are
cut from ../shared's texts. Both sides answer the same requests in the same process in turn, several
times; in the first round ours compiles. Figures are of the first round and of the best: seconds,
and how many times as long theirs took, by the clock and by the time that cores were busy, which
other work on the machine changes less. How far the results are apart is measured, too.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.figures import write
from benchmarks.harness_tasks import write_tasks

MODELS = flags.DEFINE_multi_string(
    'model', ['runs/small/llama', 'runs/small/bloom'], 'Hugging Face directories.'
)
TEXT = flags.DEFINE_string('text', '../shared/data/text/xiyouji.txt', 'Where passages are from.')
COUNT = flags.DEFINE_integer('count', 300, 'Questions of each task; a tenth is answered in words.')
BATCH = flags.DEFINE_integer('batch', 8, 'Texts at a time.')
ROUNDS = flags.DEFINE_integer('rounds', 3, 'Of each side; the best counts.')
OUTPUT = flags.DEFINE_string('output', 'runs/benchmarks/harness.json', 'Where the figures go.')


def requests(folder: Path) -> dict[str, list[Any]]:
    """What the harness asks, by task."""
    from lm_eval.tasks import TaskManager

    names = write_tasks(folder, Path(TEXT.value).read_text('utf-8'), COUNT.value)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    asked = {}
    for name, task in manager.load(names)['tasks'].items():
        few = COUNT.value // 10 if task.OUTPUT_TYPE == 'generate_until' else None
        task.set_config(key='num_fewshot', value=0)
        task.build_all_requests(limit=few, rank=0, world_size=1)
        asked[name] = task.instances
    return asked


def measure(model: str, asked: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """One row of figures for each task."""
    from lm_eval.models.huggingface import HFLM

    from belle_jax.judging import harness

    sides = {
        'ours': harness.lm(model, batch_size=BATCH.value),
        'transformers': HFLM(model, device='cpu', dtype='float32', batch_size=BATCH.value),
    }
    rows = []
    for name, instances in asked.items():
        times: dict[str, list[Any]] = {side: [] for side in sides}
        results: dict[str, Any] = {}
        for _ in range(ROUNDS.value):
            for side, lm in sides.items():
                begun = time.perf_counter(), time.process_time()
                results[side] = getattr(lm, instances[0].request_type)(instances)
                ended = time.perf_counter(), time.process_time()
                times[side].append([end - start for start, end in zip(begun, ended)])
        row = {'model': Path(model).name, 'task': name, 'requests': len(instances)}
        for rounds, pick in (('first', lambda t: t[0]), ('best', lambda t: [*map(min, zip(*t))])):
            took = {side: pick(t) for side, t in times.items()}
            row[rounds] = {
                'seconds': {side: round(t[0], 2) for side, t in took.items()},
                'ratio': round(took['transformers'][0] / took['ours'][0], 2),
                'ratio_of_cores': round(took['transformers'][1] / took['ours'][1], 2),
            }
        row['apart'] = apart(results['ours'], results['transformers'])
        print(row, flush=True)
        rows.append(row)
    return rows


def apart(ours: list[Any], theirs: list[Any]) -> float:
    """The largest relative difference of log-probabilities, or the share of other answers."""
    if isinstance(ours[0], str):
        return sum(a != b for a, b in zip(ours, theirs, strict=True)) / len(ours)
    sums = ([r[0] if isinstance(r, tuple) else r for r in results] for results in (ours, theirs))
    return max(abs(a - b) / abs(b) for a, b in zip(*sums, strict=True))


def main(_: list[str]) -> None:
    """Measures, prints JSON, and writes it to --output."""
    import os

    os.environ |= {'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1'}
    # Else whatever runs beside stalls torch, whose threads wait for each other on the cores.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    import jax

    jax.config.update('jax_enable_compilation_cache', False)  # else nothing would be compiled
    with tempfile.TemporaryDirectory() as folder:
        asked = requests(Path(folder))
        rows = [row for model in MODELS.value for row in measure(model, asked)]
    write(OUTPUT.value, 'harness', batch=BATCH.value, rounds=ROUNDS.value, rows=rows)


if __name__ == '__main__':
    app.run(main)
