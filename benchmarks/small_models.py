"""Trains the LLaMA and the BLOOM on which quantisation is measured: 10 million parameters each.

    python -m benchmarks.small_models [--family=llama] [--output=runs/small]

Real text, so that weights and activations are those of a model that has learnt something: Journey
to the West, WikiText-2's validation split and Chinese instructions, from ../shared. Every width is
a multiple of 128, the tables are untied. The last ten chapters are held out; they, and WikiText-2's
test split, are what perplexity is measured on. For each family OUTPUT/FAMILY becomes a Hugging Face
directory, with the run beside it; a run that was stopped goes on. One core takes half an hour for
each: `taskset` keeps a family to its own.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.small_texts import OF_FAMILY, SEQ_LEN, SHAPE, WEIGHTS, write_texts

FAMILIES = flags.DEFINE_multi_enum('family', ['llama', 'bloom'], ['llama', 'bloom'], 'Which.')
STEPS = flags.DEFINE_integer('steps', 1000, 'Optimiser steps, of 2,048 tokens.')
SHARED = flags.DEFINE_string('shared', '../shared', 'Folder of the shared test files.')
OUTPUT = flags.DEFINE_string('output', 'runs/small', 'Where everything goes.')


def main(_: list[str]) -> None:
    """Trains, measures, and writes OUTPUT/FAMILY.json."""
    output, shared = Path(OUTPUT.value), Path(SHARED.value) / 'data'
    if not shared.is_dir():
        raise ValueError(f'--shared={SHARED.value} has no folder data: give the shared files.')
    write_texts(shared, output)
    for family in FAMILIES.value:
        train(family, output, shared / 'tokenizers' / 'zh_bpe_6400')
        figures = measure(output / family, output / 'heldout_zh.txt', shared)
        text = json.dumps(figures, indent=1)
        (output / f'{family}.json').write_text(text + '\n', 'utf-8')
        print(f'{family}: {text}')


def train(family: str, output: Path, tokenizer: Path) -> None:
    """Trains a family in OUTPUT/FAMILY-run and exports it to OUTPUT/FAMILY."""
    import belle_jax
    from belle_jax import config
    from belle_jax.runs import conversion

    c: Any = config.default()
    c.model.architecture = {'family': family, **SHAPE, **OF_FAMILY[family], 'init_std': 0.06}
    c.model.update(remat='none', scan=False)  # fast for a small model on one device
    c.data.path = ','.join(f'{output / name}.jsonl={weight}' for name, weight in WEIGHTS.items())
    c.data.update(tokenizer=str(tokenizer), template='none', train_on='all', seq_len=SEQ_LEN)
    c.batch.size = 4
    # AdamW, as those trained whom others quantise: the optimiser decides how far weights spread.
    c.optim.update(name='adamw', learning_rate=2e-3, warmup_ratio=0.05, final_ratio=0.05)
    c.optim.update(weight_decay=0.1, beta2=0.98)
    c.train.update(steps=STEPS.value, eval_every=-1, checkpoint_every=100)
    run = belle_jax.train_run(c, output / f'{family}-run')
    if not (output / family).exists():
        conversion.to_huggingface(run, output / family)


def measure(model: Path, held_out: Path, shared: Path) -> dict[str, float]:
    """Perplexities of an exported model, and those of a model that knows frequencies alone."""
    from belle_jax import load_model
    from belle_jax.data import marked_text, tokenizer
    from belle_jax.decoding.perplexity import perplexity

    words, loaded, figures = tokenizer.load(model), load_model(model), {}
    for name, path in {
        'heldout_zh': held_out,
        'wikitext2_test': shared / 'text' / 'wikitext2_test.txt',
    }.items():
        tokens = marked_text.encode(words, path.read_text('utf-8'))
        value = perplexity(loaded, tokens, SEQ_LEN).value
        figures |= {name: round(value, 3), f'{name}_unigram': round(unigram(tokens), 3)}
    return figures


def unigram(tokens: np.ndarray) -> float:
    """The perplexity of tokens under their own frequencies: no unigram model has a lower one."""
    shares = np.unique(tokens, return_counts=True)[1] / len(tokens)
    return float(np.exp(-np.sum(shares * np.log(shares))))


if __name__ == '__main__':
    app.run(main)
