"""Talking to language-model servers: nothing asked twice, nothing paid for lost. No JAX here.

with Journal('run.sqlite', settings) as journal:
    async with Client(base_url, price=price(model)) as client:
        await ask_all(requests, client, journal, concurrency=64, use=use)

`requests` are Request(index, body) in the order of their index; `use` gets each Reply in that
order, whatever the order in which they came, and says with True when it has enough.
"""

from belle_jax.api.client import Client
from belle_jax.api.costs import Budget, Price, price
from belle_jax.api.journal import Journal, Spent
from belle_jax.api.limits import Counters, Limits
from belle_jax.api.pool import ask_all
from belle_jax.api.request import Refused, Reply, Request, Unreachable
from belle_jax.api.retries import Breaker, Retries

__all__ = [
    'Breaker',
    'Budget',
    'Client',
    'Counters',
    'Journal',
    'Limits',
    'Price',
    'Refused',
    'Reply',
    'Request',
    'Retries',
    'Spent',
    'Unreachable',
    'ask_all',
    'price',
]
