"""The ways to train with less memory, on one small real model: what is learnt, at what cost.

    python -m benchmarks.ways_to_train --model=models/small-llama --shared=../shared/data \
        --work=runs/ways --output=runs/benchmarks/ways_to_train.json

A model of benchmarks.small_models is trained on Chinese instructions in each of WAYS, each with a
learning rate of its own kind, and the loss on questions that are held out is compared. COMPARISON
has the rows of BELLE's own table in small: full fine-tuning and LoRA on a tenth, a third and two
thirds of the rows, and mathematics on top. Ways that are there are not trained again.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.figures import save

MODEL = flags.DEFINE_string('model', None, 'Hugging Face directory.', required=True)
SHARED = flags.DEFINE_string('shared', '../shared/data', 'Folder of the instructions.')
WORK = flags.DEFINE_string('work', 'runs/ways', 'Folder of the runs.')
OUTPUT = flags.DEFINE_string('output', None, 'JSON file.', required=True)
STEPS = flags.DEFINE_integer('steps', 60, 'Of each of WAYS.')
LORA = {'adapter.rank': 8, 'optim.learning_rate': 3e-3}
WAYS: dict[str, dict[str, Any]] = {
    'full, AdamW': {},
    'full, moments in 8 bits': {'optim.moment_dtype': '8bit'},
    'full, moments and masters in host memory': {'optim.offload': True},
    'full, Lion': {'optim.name': 'lion', 'optim.learning_rate': 5e-5},
    'full, Adafactor': {'optim.name': 'adafactor'},
    'full, Muon': {'optim.name': 'muon'},
    'full, GaLore of rank 64': {'optim.name': 'galore', 'optim.rank': 64},
    'LoRA': LORA,
    'LoRA beside int8': {**LORA, 'model.frozen': 'int8'},
    'LoRA beside nf4': {**LORA, 'model.frozen': 'nf4'},
    'DoRA': {**LORA, 'adapter.dora': True},
    'LoRA+, ratio 4': {**LORA, 'optim.learning_rate': 1e-3, 'adapter.ratio': 4.0},
}
INSTRUCTIONS = ('ruozhiba_qa2449_gpt4t.json', 'alpaca_zh_demo.json')
MATHEMATICS = {
    'model.source': 'full, 33 % of the rows',
    'data.path': 'gsm8k_train.jsonl=0.1',
}
COMPARISON: dict[str, dict[str, Any]] = {
    'full, 10 % of the rows': {'share': 0.1},
    'full, 33 % of the rows': {'share': 0.33},
    'LoRA, 10 % of the rows': {'share': 0.1, **LORA},
    'LoRA, 33 % of the rows': {'share': 0.33, **LORA},
    'LoRA, 66 % of the rows': {'share': 0.66, **LORA},
    'mathematics: LoRA on full': {'share': 0.1, **MATHEMATICS, **LORA},
    'mathematics: full on full': {'share': 0.1, **MATHEMATICS},
}


def trained(name: str, fields: dict[str, Any], work: Path) -> dict[str, Any]:
    """A run, and what it came to."""
    fields, target = dict(fields), _run(work, name)
    share = fields.pop('share', 1)
    if source := fields.get('model.source'):
        fields['model.source'] = _run(work, source)
    data = fields.pop('data.path', ','.join(f'{file}={share}' for file in INSTRUCTIONS))
    settings = {
        'model.source': MODEL.value,
        'model.dtype': 'float32',
        'data.path': ','.join(f'{SHARED.value}/instructions/{file}' for file in data.split(',')),
        'data.cache_dir': work / 'cache',
        'data.seq_len': 256,
        'data.packing': True,
        'data.validation.count': 200,
        'batch.size': 4,
        'optim.learning_rate': 5e-4,
        'optim.warmup_ratio': 0.05,
        'train.epochs': 1,
        'train.steps': 0 if share < 1 else STEPS.value,
        'train.eval_every': 10**6 if share < 1 else STEPS.value // 3,
        'train.checkpoint_every': -1,
        **fields,
    }
    words = [f'--config.{field}={value}' for field, value in settings.items()]
    command = [sys.executable, '-m', 'belle_jax.train', '--config=configs/sft_llama.py:7b']
    subprocess.run([*command, f'--workdir={target}', *words], check=True, env=os.environ)
    lines = (target / 'metrics' / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    rates = sorted(r['tokens_per_second'] for r in records if 'tokens_per_second' in r)
    steps, rate = records[-1]['step'], rates[len(rates) // 2]
    folder = max((target / 'checkpoints').iterdir(), key=lambda p: p.is_dir())
    return {
        'evaluation_losses': [
            (r['step'], r['evaluation_loss']) for r in records if 'evaluation_loss' in r
        ],
        'tokens_per_second': rate,
        'seconds': steps * settings['batch.size'] * settings['data.seq_len'] / rate,
        'memory_bytes': max(r.get('memory_bytes', 0) for r in records),
        'checkpoint_bytes': sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()),
    }


def _run(work: Path, name: str) -> Path:
    return work / re.sub(r'\W+', '-', name)


def main(_: list[str]) -> None:
    """Trains what is missing, and prints the table."""
    path, work = Path(OUTPUT.value), Path(WORK.value)
    found = json.loads(path.read_text())['ways'] if path.exists() else {}
    for name, fields in {**COMPARISON, **WAYS}.items():
        if name not in found:
            found[name] = trained(name, fields, work)
            save(OUTPUT.value, 'ways_to_train', steps=STEPS.value, ways=found)
    for name, figures in found.items():
        losses = ', '.join(f'{loss:.4f}' for _, loss in figures['evaluation_losses'])
        sizes = ' | '.join(
            f'{figures[f"{kind}_bytes"] / 1e6:.1f}' for kind in ('memory', 'checkpoint')
        )
        print(f'| {name} | {losses} | {figures["seconds"]:.0f} | {sizes} |')


if __name__ == '__main__':
    app.run(main)
