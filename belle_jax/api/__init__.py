"""Talking to language-model servers: nothing asked twice, nothing paid for lost. No JAX here.

with Journal('run.sqlite', settings) as journal:
    async with Client(base_url, price=price(model)) as client:
        await ask_all(requests, client, journal, concurrency=64, use=use)

`requests` are Request(index, body) in the order of their index; `use` gets each Reply in that
order, whatever the order in which they came, and says with True when it has enough.
"""

from belle_jax.api.breaker import Breaker
from belle_jax.api.client import Client, Retries
from belle_jax.api.counters import Counters
from belle_jax.api.errors import Refused, Unreachable
from belle_jax.api.journal import Journal, Spent
from belle_jax.api.limits import Limits
from belle_jax.api.pool import Budget, ask_all
from belle_jax.api.prices import Price, price
from belle_jax.api.request import Reply, Request

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
