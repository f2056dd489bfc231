"""What fits into whose memory: the training steps of 7B and 13B models, by the real compilers.

    python -m benchmarks.what_fits --output=benchmarks/results/what_fits.json
    python -m benchmarks.what_fits --output=... --topology=v5e:2x4 --lengths=1024
    python -m benchmarks.what_fits --output=... --table

No device is needed: steps are compiled (see `belle-jax plan`), of one row for each device. A file
that is there is completed; --table prints it as Markdown.
"""

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

from absl import app, flags

MODELS = ('llama_7b', 'llama_13b', 'bloom_7b1')
WAYS: dict[str, dict[str, Any]] = {
    'full, AdamW': {},
    'full, moments in bfloat16': {'optim.moment_dtype': 'bfloat16'},
    'full, moments in 8 bits': {'optim.moment_dtype': '8bit'},
    'full, moments and masters in host memory': {'optim.offload': True},
    'full, Lion': {'optim.name': 'lion'},
    'full, Lion in 8 bits': {'optim.name': 'lion', 'optim.moment_dtype': '8bit'},
    'full, Adafactor': {'optim.name': 'adafactor'},
    'full, Muon': {'optim.name': 'muon'},
    'LoRA, bfloat16': {'adapter.rank': 8, 'model.frozen': 'bfloat16'},
    'LoRA, int8': {'adapter.rank': 8, 'model.frozen': 'int8'},
    'LoRA, nf4': {'adapter.rank': 8, 'model.frozen': 'nf4'},
    'LoRA, GPTQ in 4 bits': {'adapter.rank': 8, 'model.frozen': 'nf4', 'packing': True},
}
CARDS = (16, 24, 40, 80, 141)

OUTPUT = flags.DEFINE_string(
    'output', None, 'JSON file, completed where it is there.', required=True
)
TOPOLOGY = flags.DEFINE_string('topology', 'h200:1', 'As of `belle-jax plan`.')
LENGTHS = flags.DEFINE_list('lengths', ['512', '1024', '2048'], 'Tokens of a row.')
TABLE = flags.DEFINE_boolean('table', False, 'Print what is there as Markdown.')


def measured(model: str, fields: dict[str, Any], length: int, topology: str) -> dict[str, Any]:
    """Bytes by kind on one device."""
    from belle_jax import config
    from belle_jax.families import Packing
    from belle_jax.planning import chips
    from belle_jax.planning.compiling import compile_step
    from belle_jax.runs.rounded import PACKINGS

    fields = dict(fields)
    packings = dict(PACKINGS)
    if fields.pop('packing', False):  # which a quantised model's directory would bring
        packings['nf4'] = Packing(4, group_size=128)
    c: Any = config.default()
    devices = chips.read(topology).devices
    settings = {
        'model.preset': model,
        'model.dtype': 'bfloat16',
        'data.path': 'rows.jsonl',
        'data.seq_len': length,
        'batch.size': devices,
        **fields,
    }
    c.update_from_flattened_dict(settings)
    with mock.patch.dict(PACKINGS, packings):
        memory = compile_step(config.resolve(c), topology).memory
    return {'bytes': memory._asdict(), 'devices': devices}


def table(rows: list[dict[str, Any]], topology: str) -> str:
    """Markdown: gigabytes of a device by length, and the smallest card."""
    lengths = sorted({row['length'] for row in rows})
    head = (
        'model',
        'way',
        *(f'{n:,}' for n in lengths),
        'weights',
        'moments',
        'in the host',
        'card',
    )
    lines = [head, ('---',) * len(head)]
    for model in MODELS:
        for way in WAYS:
            own = {r['length']: r['bytes'] for r in rows if (r['model'], r['way']) == (model, way)}
            if not own:
                continue
            longest = own[max(own)]
            card = next((c for c in CARDS if longest['total'] <= 0.97e9 * c), '–')
            parts = [f'{longest[kind] / 1e9:.1f}' for kind in ('parameters', 'optimiser', 'host')]
            sizes = [f'{own[n]["total"] / 1e9:.1f}' if n in own else '' for n in lengths]
            lines.append((model, way, *sizes, *parts, f'{card}'))
    return f'{topology}\n\n' + '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def main(_: list[str]) -> None:
    """Compiles what is missing, and writes after each."""
    import jax

    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    jax.config.update('jax_platforms', 'cpu')
    path, topology = Path(OUTPUT.value), TOPOLOGY.value
    found = json.loads(path.read_text()) if path.exists() else {}
    rows = found.setdefault(topology, [])
    if TABLE.value:
        print('\n\n'.join(table(rows, name) for name, rows in found.items()))
        return
    known = {(row['model'], row['way'], row['length']) for row in rows}
    for length in sorted(map(int, LENGTHS.value), reverse=True):
        for model in MODELS:
            for way, fields in WAYS.items():
                if (model, way, length) in known:
                    continue
                row = {'model': model, 'way': way, 'length': length}
                rows.append(row | measured(model, fields, length, topology))
                path.write_text(json.dumps(found, indent=1) + '\n')
                print(row, f'{rows[-1]["bytes"]["total"] / 1e9:.1f} GB', flush=True)


if __name__ == '__main__':
    app.run(main)
