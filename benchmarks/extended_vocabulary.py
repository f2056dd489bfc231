"""A vocabulary extended and learnt: bits a character before, after each phase, and without it.

    python -m benchmarks.extended_vocabulary --model=models/small-llama --shared=../shared/data \
        --work=runs/extended --output=benchmarks/results/extended_vocabulary_cpu.json

The model (of benchmarks.small_models) gets pieces learnt from a novel's chapters, is trained on
them, tables first and everything then, and beside it the model as it was, for as many characters
and at the same rates. Measured on the last chapters, which nothing is learnt from. Runs and figures
that are there are not made again.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

from benchmarks import small_texts

MODEL = flags.DEFINE_string('model', None, 'Hugging Face directory.', required=True)
SHARED = flags.DEFINE_string('shared', '../shared/data', 'Folder of the texts.')
WORK = flags.DEFINE_string('work', 'runs/extended', 'Folder of models and runs.')
OUTPUT = flags.DEFINE_string('output', None, 'JSON file.', required=True)
PIECES = flags.DEFINE_integer('pieces', 4000, 'That are appended.')
TABLES = flags.DEFINE_integer('tables', 150, 'Steps of tables alone.')
ALL = flags.DEFINE_integer('all', 300, 'Steps of everything.')
ROWS, SEQ_LEN = 4, 256


def program(module: str, *words: str) -> None:
    """Runs a program of ours."""
    subprocess.run([sys.executable, '-m', module, *words], check=True, env=os.environ)


def trained(source: Path, target: Path, steps: int, *more: str) -> float:
    """A run of continued pretraining; seconds that it took, 0 where it was there."""
    start = time.monotonic()
    if not (target / 'done').exists():
        program(
            'belle_jax.train',
            '--config=configs/pretrain.py:llama',
            f'--workdir={target}',
            f'--config.model.source={source}',
            f'--config.data.path={WORK.value}/novel.jsonl',
            f'--config.data.cache_dir={WORK.value}/cache',
            f'--config.data.seq_len={SEQ_LEN}',
            f'--config.batch.size={ROWS}',
            f'--config.train.steps={steps}',
            '--config.data.validation.fraction=0',
            '--config.train.eval_every=-1',
            '--config.model.dtype=float32',
            '--config.optim.warmup_ratio=0.05',
            '--config.optim.weight_decay=0.01',
            *more,
        )
        (target / 'done').touch()
    return round(time.monotonic() - start)


def measured(model: Path, work: Path) -> dict[str, float]:
    """Bits a character, and characters a token, of the held-out chapters."""
    file = work / f'{model.name}.json'
    if not file.exists():
        program(
            'belle_jax.evaluate',
            'perplexity',
            f'--model={model}',
            f'--text={work}/heldout_zh.txt',
            f'--seq_len={SEQ_LEN}',
            f'--output={file}',
        )
    return json.loads(file.read_text())


def main(_: list[str]) -> None:
    """Extends, trains, measures."""
    work = Path(WORK.value)
    small_texts.write_texts(Path(SHARED.value), work)
    extended = work / 'extended'
    if not extended.exists():
        program(
            'convert.extend_vocab',
            f'--model={MODEL.value}',
            f'--train={work}/novel.jsonl',
            f'--size={PIECES.value}',
            f'--target={extended}',
        )
    fast, slow = '--config.optim.learning_rate=1e-3', '--config.optim.learning_rate=3e-4'
    plain, found = Path(MODEL.value), {}
    before, start = measured(plain, work), measured(extended, work)
    # Longer pieces: for as many characters the model without them takes more steps.
    per_token = [found['bits_per_character'] / found['loss'] for found in (before, start)]
    more = per_token[0] / per_token[1]
    seconds = {
        'tables': trained(
            extended, work / 'tables', TABLES.value, fast, '--config.train.only=embed,head'
        ),
        'everything': trained(work / 'tables', work / 'everything', ALL.value, slow),
        'without': trained(plain, work / 'without', round((TABLES.value + ALL.value) * more), slow),
    }
    for name, model in (
        ('as it was', plain),
        ('extended', extended),
        ('after tables', work / 'tables'),
        ('after everything', work / 'everything'),
        ('without extension, as many characters', work / 'without'),
    ):
        figures = measured(model, work)
        found[name] = {n: figures[n] for n in ('bits_per_character', 'perplexity', 'tokens')}
    settings = {
        'pieces': PIECES.value,
        'tables': TABLES.value,
        'all': ALL.value,
        'steps_more': more,
    }
    Path(OUTPUT.value).write_text(
        json.dumps({'settings': settings, 'seconds': seconds, 'figures': found}, indent=1) + '\n'
    )
    for name, figures in found.items():
        print(f'{figures["bits_per_character"]:.4f} bits a character: {name}')


if __name__ == '__main__':
    app.run(main)
