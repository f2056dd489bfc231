"""Talking to language-model servers: nothing asked twice, nothing paid for lost. No JAX here.

with Journal('run.sqlite', settings) as journal:
    async with Client(base_url, price=price(model)) as client:
        await ask_all(requests, client, journal, concurrency=64, use=use)

`requests` are Request(index, body) in the order of their index; `use` gets each Reply in that
order, whatever the order in which they came, and says with True when it has enough.
"""

from belle_jax.api.client import Client
from belle_jax.api.cost import Budget, Lost, Price, Spent, price
from belle_jax.api.journal import Journal
from belle_jax.api.pacing import Breaker, Limits, Retries
from belle_jax.api.pool import ask_all
from belle_jax.api.request import Counters, Refused, Reply, Request, Unreachable, is_whole

__all__ = [
    'Breaker',
    'Budget',
    'Client',
    'Counters',
    'Journal',
    'Limits',
    'Lost',
    'Price',
    'Refused',
    'Reply',
    'Request',
    'Retries',
    'Spent',
    'Unreachable',
    'ask_all',
    'is_whole',
    'price',
]
