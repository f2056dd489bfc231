"""A small LLaMA from nothing to answers, in minutes on a CPU: python -m belle_jax.quickstart

It makes Chinese instruction pairs and a tokenizer, and then runs the commands that one would run
with data of one's own: training with configs/quickstart.py, and sampling. Nothing is downloaded.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app

from belle_jax.quickstart import nearest, pairs, tokenizer
from belle_jax.quickstart.pairs import Pair
from belle_jax.quickstart.report import losses, table

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'configs/quickstart.py'
HOME = Path('runs/quickstart')  # as the recipe names it, from ROOT
RUN = HOME / 'run'
SHOWN = ('写数', '翻译', '反义词')  # kinds of the three answers at the end


def main(argv: list[str]) -> None:
    """Data, tokenizer, training, evaluation, three answers."""
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r}: the quickstart takes no arguments.')
    began = time.monotonic()

    # ─── data and tokenizer ──────────────────────────────────────────────────────────────────────
    train, held_out = pairs.make()
    _prepare(train, held_out)

    # ─── training ────────────────────────────────────────────────────────────────────────────────
    training = _command('train', f'--config={CONFIG}', f'--workdir={RUN}')
    print(losses(ROOT / RUN / 'metrics' / 'metrics.jsonl'))
    print(f'Training took {training:.0f} seconds.')

    # ─── evaluation ──────────────────────────────────────────────────────────────────────────────
    questions = [pair.instruction for pair in held_out]
    given = _ask(questions)
    looked_up = nearest.answers(train, questions)
    print(table(train, held_out, given, looked_up))

    # ─── three answers ───────────────────────────────────────────────────────────────────────────
    print('\nThree of the held-out questions and what the model answered:')
    for kind in SHOWN:
        number = next(i for i, pair in enumerate(held_out) if pair.kind == kind)
        print(f'  Human: {questions[number]}\n  Assistant: {given[number]}')
    print(f'\nTalk to it:   {_shown("sample", f"--model={RUN}")}')
    print(f'Loss curve:   {RUN}/metrics/loss.png')
    print(f'The quickstart took {time.monotonic() - began:.0f} seconds; its files are in {HOME}')


def _prepare(train: Sequence[Pair], held_out: Sequence[Pair]) -> None:
    """Writes what the recipe reads; what an earlier quickstart left makes room."""
    shutil.rmtree(ROOT / HOME, ignore_errors=True)
    for name, chosen in (('train', train), ('held_out', held_out)):
        pairs.write(chosen, ROOT / HOME / f'{name}.jsonl')
    texts = (f'Human: {pair.instruction}\n\nAssistant:{pair.output}' for pair in train)
    tokens = tokenizer.train(texts, ROOT / HOME / 'tokenizer')
    kinds = len({pair.kind for pair in train})
    print(
        f'{len(train):,} training pairs and {len(held_out):,} held-out pairs of {kinds} kinds, and '
        f'a tokenizer of {tokens:,} tokens, in {HOME}'
    )


def _ask(questions: Sequence[str]) -> list[str]:
    """What the trained model answers, greedily."""
    prompts, answers = HOME / 'questions.jsonl', HOME / 'answers.jsonl'
    rows = (json.dumps({'prompt': text}, ensure_ascii=False) for text in questions)
    (ROOT / prompts).write_text('\n'.join(rows) + '\n', 'utf-8')
    _command(
        'sample',
        f'--model={RUN}',
        f'--prompts={prompts}',
        f'--output={answers}',
        '--max_new_tokens=32',
        '--batch_size=64',
    )
    lines = (ROOT / answers).read_text('utf-8').splitlines()
    return [json.loads(line)['output'] for line in lines]


def _command(binary: str, *flags: str) -> float:
    """Runs one of the project's binaries as a person would; returns the seconds it took."""
    print(f'\n$ {_shown(binary, *flags)}', flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, '-m', f'belle_jax.{binary}', *flags], cwd=ROOT)
    if done.returncode:
        raise ValueError(f'belle_jax.{binary} ended with exit code {done.returncode}: see above.')
    return time.monotonic() - began


def _shown(binary: str, *flags: str) -> str:
    return ' '.join(['python -m', f'belle_jax.{binary}', *flags])


def run_main(argv: list[str]) -> None:
    """`main`, with a failure as one sentence."""
    try:
        main(argv)
    except (ValueError, OSError) as error:
        sys.exit(f'belle_jax.quickstart: {error}')


if __name__ == '__main__':
    app.run(run_main)
