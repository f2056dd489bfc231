"""Continued pretraining on plain text: every token is learnt from, rows are packed full.

belle-jax train --config=pretrain:llama --workdir=runs/pretrain \\
    --config.model.source=PATH --config.data.path=text.jsonl

Rows are {"text": …}; a text longer than a row goes on in the next. Several sources are mixed by
weights, data.path=novels.jsonl,news.jsonl=2,general.jsonl=0.1: a little general text keeps a model
from forgetting it. Variants: llama, bloom. The published rates are those of the end of pretraining;
a tenth of that is a safe peak for going on. Of each file of --config.data.validation.path the loss
is told by itself, in bits a character.

A model whose vocabulary was extended (belle-jax convert extend_vocab) learns its tables first, with
all else frozen, and everything then, as BELLE-LLaMA-EXT did:

belle-jax train --config=pretrain:tables --workdir=runs/tables --config.model.source=models/extended
belle-jax train --config=pretrain:llama --workdir=runs/all --config.model.source=runs/tables

The variant `tables` trains embedding and output table at a rate for new rows, 2e-4; a model that
has one table for both takes --config.train.only=embed.
"""

from ml_collections import ConfigDict

from belle_jax import config

VARIANTS = ('llama', 'bloom', 'tables')


def get_config(variant: str = 'llama') -> ConfigDict:
    """The recipe; `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r} is not one of {", ".join(VARIANTS)}.')
    c = config.default()
    c.model.source = {
        'llama': 'weights/llama-7b-hf',
        'bloom': 'bigscience/bloom-7b1',
        'tables': 'models/extended',
    }[variant]
    c.model.dtype = 'bfloat16'
    c.data.update(path='data/text.jsonl', train_on='all', template='none', seq_len=2048)
    c.data.validation.fraction = 0.005
    c.batch.size = 256
    c.optim.update(learning_rate=3e-5, warmup_ratio=0.01, final_ratio=0.1)
    c.optim.update(weight_decay=0.1, beta2=0.95)
    c.train.epochs = 1.0
    if variant == 'tables':
        c.train.only = 'embed,head'
        c.optim.update(learning_rate=2e-4, weight_decay=0.0)
    return c
