"""Any number of Chinese or English instructions, made of real ones' pieces, the same every time.

A new instruction has the length of a real one: the beginning of another, then clauses of answers.
Some are earlier ones with up to a third of their characters or words replaced, so that similarities
of all sizes occur.
"""

import json
import pathlib
import random
import re
from collections.abc import Iterator

from belle_jax.data.record_reader import RecordReader

CHINESE = (
    'belle/dev1K.json',
    'instructions/alpaca_zh_demo.json',
    'instructions/ruozhiba_qa2449_gpt4t.json',
    'instructions/sharegpt_zh_1K_format.jsonl',
)
ENGLISH = ('instructions/alpaca_en_demo.json', 'instructions/gsm8k_train.jsonl')
CLAUSE = re.compile(r'[，。；：！？、\n]+|[.,;:!?]\s')
LONGEST = 300  # characters of an instruction
NEAR = 0.15  # of all are changed earlier ones


def pieces(shared: pathlib.Path, files: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The questions, and the clauses of the answers, of some files.

    Args:
        shared: The shared files' folder `data`.
        files: Their names in it.
    Returns:
        Questions; clauses.
    """
    questions, clauses = [], []
    for file in files:
        for record in RecordReader(str(shared / file), 'skip'):
            for message in record.messages:
                if message['role'] == 'user':
                    questions.append(message['content'])
                elif message['role'] == 'assistant':
                    clauses += CLAUSE.split(message['content'])
    questions = [question for question in questions if len(question) >= 4]
    return questions, [c.strip() for c in clauses if 3 <= len(c.strip()) <= 24]


def instructions(
    shared: pathlib.Path, count: int, seed: int = 0, files: tuple[str, ...] = CHINESE
) -> Iterator[str]:
    """Makes instructions.

    Args:
        shared: The shared files' folder `data`.
        count: How many.
        seed: Of all draws.
        files: Whose pieces.
    Yields:
        Instructions.
    """
    rng = random.Random(seed)
    questions, clauses = pieces(shared, files)
    spaced = files == ENGLISH
    comma = ', ' if spaced else '，'
    made: list[str] = []
    for _ in range(count):
        if made and rng.random() < NEAR:
            units = rng.choice(made).split(' ') if spaced else list(rng.choice(made))
            for _ in range(int(len(units) * rng.random() * 0.35)):
                other = rng.choice(clauses)
                units[rng.randrange(len(units))] = rng.choice(other.split() if spaced else other)
            text = (' ' if spaced else '').join(units)
        else:
            length = min(len(rng.choice(questions)), LONGEST)
            question = rng.choice(questions)
            text = question[: rng.randint(2, max(2, min(len(question), length // 2 + 2)))]
            while len(text) < length:
                text += comma + rng.choice(clauses)
            text = text[:length]
        made.append(text)
        yield text


def write(path: pathlib.Path, shared: pathlib.Path, count: int) -> None:
    """Writes instructions as alpaca rows, JSON lines, each with an answer of three clauses."""
    rng = random.Random(1)
    _, clauses = pieces(shared, CHINESE)
    with path.open('w', encoding='utf-8') as stream:
        for text in instructions(shared, count):
            answer = '，'.join(rng.choices(clauses, k=3)) + '。'
            row = {'instruction': text, 'input': '', 'output': answer}
            stream.write(json.dumps(row, ensure_ascii=False) + '\n')
