"""The ways to train with less memory, on one small real model: what is learnt, at what cost.

    python -m benchmarks.ways_to_train --model=models/small-llama --shared=../shared/data \
        --work=runs/ways --output=benchmarks/results/ways_to_train_cpu.json

A model of benchmarks.small_models is trained on Chinese instructions in each of WAYS, each with a
learning rate of its own kind, and the loss on questions that are held out is compared: BELLE's
table of full fine-tuning and LoRA, in small. Ways that are there are not trained again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

MODEL = flags.DEFINE_string('model', None, 'Hugging Face directory.', required=True)
SHARED = flags.DEFINE_string('shared', '../shared/data', 'Folder of the instructions.')
WORK = flags.DEFINE_string('work', 'runs/ways', 'Folder of the runs.')
OUTPUT = flags.DEFINE_string('output', None, 'JSON file.', required=True)
STEPS = flags.DEFINE_integer('steps', 150, 'Of each way.')
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


def trained(name: str, fields: dict[str, Any], work: Path) -> dict[str, Any]:
    """A run, and what it came to."""
    target = work / name.replace(' ', '-').replace(',', '')
    data = ','.join(
        f'{SHARED.value}/instructions/{file}'
        for file in ('ruozhiba_qa2449_gpt4t.json', 'alpaca_zh_demo.json')
    )
    settings = {
        'model.source': MODEL.value,
        'model.dtype': 'float32',
        'data.path': data,
        'data.cache_dir': work / 'cache',
        'data.seq_len': 256,
        'data.packing': True,
        'data.validation.count': 200,
        'batch.size': 4,
        'optim.learning_rate': 5e-4,
        'optim.warmup_ratio': 0.05,
        'train.epochs': 1,
        'train.steps': STEPS.value,
        'train.eval_every': STEPS.value // 3,
        'train.checkpoint_every': -1,
        **fields,
    }
    words = [f'--config.{field}={value}' for field, value in settings.items()]
    command = [sys.executable, '-m', 'belle_jax.train', '--config=configs/sft_llama.py:7b']
    subprocess.run([*command, f'--workdir={target}', *words], check=True, env=os.environ)
    lines = (target / 'metrics' / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    losses = [(r['step'], r['evaluation_loss']) for r in records if 'evaluation_loss' in r]
    rates = sorted(r['tokens_per_second'] for r in records if 'tokens_per_second' in r)
    folder = max((target / 'checkpoints').iterdir(), key=lambda p: p.is_dir())
    size = sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())
    return {
        'evaluation_losses': losses,
        'tokens_per_second': rates[len(rates) // 2],
        'checkpoint_bytes': size,
    }


def main(_: list[str]) -> None:
    """Trains what is missing, and prints the table."""
    path, work = Path(OUTPUT.value), Path(WORK.value)
    found = json.loads(path.read_text()) if path.exists() else {}
    for name, fields in WAYS.items():
        if name not in found:
            found[name] = trained(name, fields, work)
            path.write_text(json.dumps(found, indent=1) + '\n')
    for name, figures in found.items():
        losses = ' '.join(f'{loss:.4f}' for _, loss in figures['evaluation_losses'])
        megabytes = figures['checkpoint_bytes'] / 1e6
        print(f'{losses}  {figures["tokens_per_second"]:6.0f} tokens/s {megabytes:6.1f} MB  {name}')


if __name__ == '__main__':
    app.run(main)
