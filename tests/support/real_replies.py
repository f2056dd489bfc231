"""What the test server answers about real files: English tasks, and the true category of a row."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

ASKED = re.compile(r'指令：\n(.*?)\n\n输入：\n', re.S)
ENGLISH = (
    'Describe Compare List Summarize Explain Rewrite Translate Plan Name Draft Rank'.split(),
    'a lighthouse|the harbour market|an old railway|the village library|a mountain trail|a bakery|'
    'the night train|a stone bridge|an orchard|the weather station'.split('|'),
    'for a curious child|in one paragraph|with three examples|for a travel guide|as a short letter|'
    'without technical words|step by step|from a visitor point of view'.split('|'),
    'and say why it matters|and mention its history|and end with a question|and give one number|'
    'and keep a calm tone|and name two alternatives|and warn about a danger'.split('|'),
)


def self_instruct_en(body: dict, chance: random.Random) -> tuple[str, str]:
    """As `api_replies.self_instruct`, in English: Instruction, Input and Output."""
    prompt = body.get('prompt') or body['messages'][-1]['content']
    asked = re.search(r'(\d+)\.\s*Instruction:\s*$', prompt)
    number = int(asked[1]) if asked else 1
    pieces = []
    for n in range(number, number + chance.randint(3, 5)):
        verb, thing, way, end = (chance.choice(words) for words in ENGLISH)
        given = f'It was built in {chance.randint(1500, 1990)}.' if chance.random() < 0.4 else ''
        pieces.append(
            f'{n}. Instruction: {verb} {thing} {way} {end}.\n{n}. Input:\n{given or "<noinput>"}\n'
            f'{n}. Output:\nThere is much to say about {thing}, and {chance.randint(2, 9)} things '
            f'stand out.\n'
        )
    return '###\n'.join(pieces), 'stop'


def true_label(eval_set: Path) -> Callable[[dict, random.Random], tuple[str, str]]:
    """Says what BELLE's people said.

    Args:
        eval_set: BELLE's `eval_set.json`.
    """
    rows = [json.loads(line) for line in eval_set.read_text('utf-8').splitlines()]
    classes = {row['question'].strip()[:1200]: row['class'] for row in rows}

    def label(body: dict, chance: random.Random) -> tuple[str, str]:
        found = ASKED.search(body['messages'][-1]['content'])
        assert found
        return classes[found[1].removesuffix('……')], 'stop'

    return label
