"""A small LLaMA from nothing to answers, in minutes on a CPU.

    belle-jax quickstart

It makes Chinese instruction pairs and a tokenizer, and then runs the commands that one would run
with data of one's own: training with the recipe `quickstart`, and sampling. Nothing is downloaded.
Its files are in runs/quickstart of the working directory; those of an earlier quickstart make room.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from belle_jax import cli
from belle_jax.data.row_file import new_row_file
from belle_jax.files import remove
from belle_jax.quickstart import pairs, report, tokenizer
from belle_jax.quickstart.pairs import Pair

STEPS = flags.DEFINE_integer('steps', None, 'Of training; by default those of the recipe.')
HOME = Path('runs/quickstart')  # as the recipe names it
RUN = HOME / 'run'
SHOWN = ('写数', '翻译', '反义词')  # kinds of the three answers at the end


def main() -> None:
    """Data, tokenizer, training, evaluation, three answers."""
    began = time.monotonic()

    # ─── data and tokenizer ──────────────────────────────────────────────────────────────────────
    train, held_out = pairs.make()
    _prepare(train, held_out)

    # ─── training ────────────────────────────────────────────────────────────────────────────────
    shorter = () if STEPS.value is None else (f'--config.train.steps={STEPS.value}',)
    training = _command('train', '--config=quickstart', f'--workdir={RUN}', *shorter)
    print(report.losses(RUN / 'metrics' / 'metrics.jsonl'))
    print(f'Training took {training:.0f} seconds.')

    # ─── evaluation ──────────────────────────────────────────────────────────────────────────────
    questions = [pair.instruction for pair in held_out]
    given = _ask(questions)
    print(report.table(train, held_out, given, report.nearest(train, questions)))

    # ─── three answers ───────────────────────────────────────────────────────────────────────────
    print('\nThree of the held-out questions and what the model answered:')
    for kind in SHOWN:
        number = next(i for i, pair in enumerate(held_out) if pair.kind == kind)
        print(f'  Human: {questions[number]}\n  Assistant: {given[number]}')
    print(f'\nTalk to it:   {_shown("sample", f"--model={RUN}")}')
    print('              (it was trained on single questions: /reset between them helps it)')
    print(f'Loss curve:   {RUN}/metrics/loss.png')
    print(f'The quickstart took {time.monotonic() - began:.0f} seconds; its files are in {HOME}')


def _prepare(train: Sequence[Pair], held_out: Sequence[Pair]) -> None:
    """Writes what the recipe reads; what an earlier quickstart left makes room."""
    remove(HOME)
    for name, chosen in (('train', train), ('held_out', held_out)):
        pairs.write(chosen, HOME / f'{name}.jsonl')
    texts = (f'Human: {pair.instruction}\n\nAssistant:{pair.output}' for pair in train)
    tokens = tokenizer.train(texts, HOME / 'tokenizer')
    kinds = len({pair.kind for pair in train})
    print(
        f'{len(train):,} training pairs and {len(held_out):,} held-out pairs of {kinds} kinds, and '
        f'a tokenizer of {tokens:,} tokens, in {HOME}'
    )


def _ask(questions: Sequence[str]) -> list[str]:
    """What the trained model answers, greedily."""
    prompts, answers = HOME / 'questions.jsonl', HOME / 'answers.jsonl'
    with new_row_file(prompts) as add:
        for text in questions:
            add({'prompt': text})
    files = f'--prompts={prompts}', f'--output={answers}'
    _command('sample', f'--model={RUN}', *files, '--max_new_tokens=32', '--batch_size=64')
    lines = answers.read_text('utf-8').splitlines()
    return [json.loads(line)['output'] for line in lines]


def _command(binary: str, *given: str) -> float:
    """Runs one of the project's binaries as a person would; returns the seconds it took."""
    print(f'\n$ {_shown(binary, *given)}', flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, '-m', f'belle_jax.{binary}', *given])
    if done.returncode:
        raise ValueError(f'belle_jax.{binary} ended with exit code {done.returncode}: see above.')
    return time.monotonic() - began


def _shown(binary: str, *given: str) -> str:
    return ' '.join(['python -m', f'belle_jax.{binary}', *given])


if __name__ == '__main__':
    cli.run(main, stopped='stopped.')
