"""What the quickstart prints of a run: the loss falling, and the share of exact answers.

That is held against a baseline that has learned nothing: to answer as the most similar training row
was answered.
"""

import json
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from belle_jax.quickstart.pairs import Pair

POINTS = 8  # of the loss


def losses(path: Path) -> str:
    """The training loss at a few steps, as a bar chart in text.

    Args:
        path: metrics.jsonl of a run.
    Returns:
        A line for each chosen step; the first and the last are among them.
    """
    records = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
    records = [record for record in records if 'loss' in record]
    last = len(records) - 1
    chosen = sorted({round(i * last / (POINTS - 1)) for i in range(POINTS)})
    highest = max(records[i]['loss'] for i in chosen)
    lines = ['\nTraining loss (nats a token)']
    for record in (records[i] for i in chosen):
        bar = '#' * max(1, round(40 * record['loss'] / highest))
        lines.append(f'  step {record["step"]:>5}  {record["loss"]:7.4f}  {bar}')
    return '\n'.join(lines)


def nearest(train: Sequence[Pair], questions: Sequence[str]) -> list[str]:
    """For each question, the answer of the training pair whose instruction is most similar.

    Similarity is Dice's coefficient over the sets of single characters and of pairs of neighbours:
    twice what two texts share, divided by what they have.

    Args:
        train: The pairs to look up.
        questions: Instructions to answer.
    Returns:
        As many answers as questions; of equally similar rows the first one's.
    """
    rows_with: dict[str, list[int]] = defaultdict(list)
    sizes = np.empty(len(train))
    for row, pair in enumerate(train):
        grams = _grams(pair.instruction)
        sizes[row] = len(grams)
        for gram in grams:
            rows_with[gram].append(row)
    index = {gram: np.array(rows) for gram, rows in rows_with.items()}
    found = []
    for question in questions:
        grams = _grams(question)
        shared = np.zeros(len(train))
        for gram in grams & index.keys():
            shared[index[gram]] += 1
        found.append(train[int(np.argmax(2 * shared / (sizes + len(grams))))].output)
    return found


def _grams(text: str) -> set[str]:
    return {*text, *(text[i : i + 2] for i in range(len(text) - 1))}


def exact(pairs: Sequence[Pair], answers: Sequence[str]) -> list[bool]:
    """Which answers are the right one, character for character (outer white space aside)."""
    return [pair.output == answer.strip() for pair, answer in zip(pairs, answers, strict=True)]


def table(
    train: Sequence[Pair], held_out: Sequence[Pair], given: Sequence[str], looked_up: Sequence[str]
) -> str:
    """The share of held-out answers that are exactly right, by kind and in all.

    Args:
        train: The training pairs; tell which answers were seen.
        held_out: The questions.
        given: The model's answers to them.
        looked_up: The nearest training rows' answers to them.
    Returns:
        A table in text.
    """
    seen = {pair.output for pair in train}
    columns = {
        'model': exact(held_out, given),
        'nearest row': exact(held_out, looked_up),
        'seen': [pair.output in seen for pair in held_out],
    }
    lines = [
        '\nHeld-out questions: % of answers exactly right, and of right answers seen in training'
    ]
    lines.append('  ' + _padded('kind', 10) + ''.join(f'{name:>14}' for name in columns))
    for kind in [*dict.fromkeys(pair.kind for pair in train), 'all']:
        rows = [i for i, pair in enumerate(held_out) if kind in (pair.kind, 'all')]
        shares = (100 * sum(column[i] for i in rows) / len(rows) for column in columns.values())
        lines.append('  ' + _padded(kind, 10) + ''.join(f'{share:14.1f}' for share in shares))
    return '\n'.join(lines)


def _padded(text: str, width: int) -> str:
    """Left-aligned in a terminal, where a Chinese character takes two columns."""
    return text + ' ' * (width - sum(1 + (unicodedata.east_asian_width(c) in 'WF') for c in text))
