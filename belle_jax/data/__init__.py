"""Data: row formats, chat templates, the token cache, and plans of packed batches. No JAX here.

tokens = tokenizer.load('path/to/model')
prepared = prepare(run, tokens)
print(prepared.account)
for batch in load(prepared.train, start=step):
    ...
"""

from belle_jax.data.plan import BatchArrays, Plan, load
from belle_jax.data.prepare import DataAccount, Prepared, prepare
from belle_jax.data.templates import Template
from belle_jax.data.tokenizer import Tokenizer

__all__ = [
    'BatchArrays',
    'DataAccount',
    'Plan',
    'Prepared',
    'Template',
    'Tokenizer',
    'load',
    'prepare',
]
