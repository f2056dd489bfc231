"""What the models of benchmarks.small_models are, and what they read."""

import json
import re
from pathlib import Path
from typing import Any

SEQ_LEN = 512
HELD_OUT = 10  # chapters
SHAPE: dict[str, Any] = {'embed': 256, 'layers': 8, 'q_heads': 4, 'max_position': SEQ_LEN}
OF_FAMILY: dict[str, dict[str, Any]] = {'llama': {'kv_heads': 2, 'mlp': 768}, 'bloom': {}}
# Passes over each file in an epoch: no kind of text outweighs the others.
WEIGHTS = {'novel': 2, 'wikipedia': 2, 'instructions': 0.5}
INSTRUCTIONS = (
    'alpaca_zh_demo.json',
    'ruozhiba_qa2449_gpt4t.json',
    'sharegpt_zh_1K_format.jsonl',
)


def write_texts(shared: Path, output: Path) -> None:
    """Rows of text to train on, OUTPUT/*.jsonl, and the held-out chapters, heldout_zh.txt."""
    from belle_jax.data import corpora
    from belle_jax.data.record_reader import RecordReader
    from belle_jax.files import write_text

    output.mkdir(parents=True, exist_ok=True)
    novel = (shared / 'text' / 'xiyouji.txt').read_text('utf-8')
    chapters = re.split(r'(?m)^(?=第[一二三四五六七八九十百]+回 )', novel)
    articles = (shared / 'text' / 'wikitext2_valid.txt').read_text('utf-8')
    rows = {
        'novel': chapters[:-HELD_OUT],
        'wikipedia': re.split(r'(?m)^(?= = [^=].* = $)', articles),
        'instructions': [
            corpora.said(record)
            for file in INSTRUCTIONS
            for record in RecordReader(str(shared / 'instructions' / file), 'skip')
        ],
    }
    for name, texts in rows.items():
        lines = [json.dumps({'text': t}, ensure_ascii=False) for t in texts if t.strip()]
        write_text(output / f'{name}.jsonl', '\n'.join(lines) + '\n')
    write_text(output / 'heldout_zh.txt', ''.join(chapters[-HELD_OUT:]))
