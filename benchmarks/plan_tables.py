"""What training takes on many machines, by the real compilers: one `belle-jax plan` a cell.

    python -m benchmarks.plan_tables                          # all that is missing, then the tables
    python -m benchmarks.plan_tables --only=llama_7b --most=4 --topologies=v5e:4x8,h200:8
    python -m benchmarks.plan_tables --most=0                 # the tables of what is there

A cell is a model on a topology: one row of 2,048 tokens a device, parameters split over 32 devices,
of which there are copies (over all, where they do not fit so), and of what may be kept for the
backward pass the most that fits. Each is saved as it is found, so that the next run goes on. A
minute or two each; the compilers are on PYTHONPATH (`.ci/compilers FOLDER`).
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags

OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/plan.json', 'Cells by name.')
ONLY = flags.DEFINE_list('only', [], 'Models; by default all.')
TOPOLOGIES = flags.DEFINE_list('topologies', [], 'By default all of the tables.')
MOST = flags.DEFINE_integer('most', 1000, 'Cells to compute at most.')

MODELS = {
    'llama_7b': 'LLaMA-7B',
    'bloom_7b1': 'BLOOM-7B1',
    'llama_13b': 'LLaMA-13B',
    'llama2_70b': 'Llama-2-70B',
    'bloom_176b': 'BLOOM-176B',
}
COLUMNS = {
    'v5e': ['v5e:2x4', 'v5e:4x8', 'v5e:8x8', 'v5e:16x16'],
    'v5p': ['v5p:2x2x2', 'v5p:2x4x4', 'v5p:4x4x4', 'v5p:4x8x8'],
    'v4': ['v4:2x2x2', 'v4:4x4x4', 'v4:4x8x8'],
    'v6e': ['v6e:2x4', 'v6e:8x8', 'v6e:16x16'],
    'h200': ['h200:1', 'h200:8', 'h200:8x4'],
}
SPLIT = 32  # devices that share a model's parameters: beyond, their collectives are not hidden
STATE = 12  # bytes a parameter: itself and two moments


def main(argv: list[str]) -> None:
    """Computes what is missing, and prints the tables."""
    del argv
    path = Path(OUTPUT.value)
    cells = json.loads(path.read_text('utf-8')) if path.exists() else {}
    missing = [
        (preset, topology)
        for topologies in COLUMNS.values()
        for topology in topologies
        if not TOPOLOGIES.value or topology in TOPOLOGIES.value
        for preset in MODELS
        if (not ONLY.value or preset in ONLY.value) and f'{preset} {topology}' not in cells
    ]
    for preset, topology in missing[: MOST.value]:
        cells[f'{preset} {topology}'] = cell(preset, topology)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(sorted(cells.items())), indent=1) + '\n', 'utf-8')
        print(f'{preset} {topology}: {shown(cells[f"{preset} {topology}"])}', file=sys.stderr)
    print('\n\n'.join(table(cells, chip) for chip in COLUMNS))


def cell(preset: str, topology: str) -> dict[str, Any]:
    """The plan that keeps most and fits; of one that cannot fit, that alone."""
    from belle_jax import models
    from belle_jax.config import PRESETS
    from belle_jax.planning import chips

    _, chip, _, _, devices = chips.read(topology)
    state = STATE * models.count_parameters(models.Blueprint(PRESETS[preset])) / devices
    if state > chip.memory:
        return {'fits': False, 'bytes_per_device': state}
    found: dict[str, Any] = {}
    ways = itertools.product(sorted({max(1, devices // SPLIT), 1}, reverse=True), ('dots', 'block'))
    for copies, remat in ways:
        found = planned(preset, topology, devices, copies, remat)
        if found['fits']:
            break
    del found['collectives'], found['warnings']
    return found


def planned(preset: str, topology: str, rows: int, copies: int, remat: str) -> dict[str, Any]:
    """What `belle-jax plan --output` writes."""
    with tempfile.TemporaryDirectory() as folder:
        output = f'{folder}/plan.json'
        recipe = f'pretrain:{preset.partition("_")[0].rstrip("2")}'
        command = [
            *(sys.executable, '-m', 'belle_jax.plan', f'--config={recipe}'),
            *(f'--topology={topology}', f'--output={output}', f'--config.batch.size={rows}'),
            *('--config.model.source=', f'--config.model.preset={preset}'),
            *(f'--config.model.remat={remat}', f'--config.mesh.data={copies}'),
        ]
        subprocess.run(command, check=True, env=os.environ, stdout=subprocess.DEVNULL)
        return json.loads(Path(output).read_text('utf-8'))[0]


def shown(found: dict[str, Any] | None) -> str:
    """A cell of the table."""
    if found is None:
        return 'not computed'
    if not found['fits']:
        return 'does not fit'
    gigabytes = f'{found["bytes_per_device"] / 1e9:.0f} GB'
    if 'seconds' not in found:
        return f'{gigabytes}, {found["remat"]}, at least {found["seconds_at_peak"]:.2f} s'
    return f'{gigabytes}, {found["remat"]}, {found["seconds"]:.2f} s, {found["share_of_peak"]:.0%}'


def table(cells: dict[str, Any], chip: str) -> str:
    """The models on a chip's topologies, as Markdown."""
    topologies = COLUMNS[chip]
    lines = [f'| {" | ".join(["", *topologies])} |', '|---' * (len(topologies) + 1) + '|']
    for preset, title in MODELS.items():
        row = [shown(cells.get(f'{preset} {topology}')) for topology in topologies]
        lines.append(f'| {" | ".join([title, *row])} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    app.run(main)
