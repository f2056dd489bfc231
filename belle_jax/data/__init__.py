"""Data: row formats, chat templates, the token cache, and plans of packed batches. No JAX here.

tokens = tokenizer.load('path/to/model')
prepared = prepare(run, tokens)
print(prepared.account)
for batch in load(prepared.train, start=step):
    ...
"""

from belle_jax.data.account import Account
from belle_jax.data.chat import Template
from belle_jax.data.loader import load
from belle_jax.data.plan import Batch, Plan
from belle_jax.data.prepare import Prepared, prepare
from belle_jax.data.templates import template
from belle_jax.data.tokenizer import Tokenizer

__all__ = [
    'Account',
    'Batch',
    'Plan',
    'Prepared',
    'Template',
    'Tokenizer',
    'load',
    'prepare',
    'template',
]
