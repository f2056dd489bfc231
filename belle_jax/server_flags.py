"""The flags of every program that asks a language-model server, and what they make."""

import json
from typing import Any

from absl import flags

from belle_jax.api import Breaker, Budget, Client, Limits, Retries, price

BASE_URL = flags.DEFINE_string('base_url', None, "The server; by default OpenAI's.")
CONCURRENCY = flags.DEFINE_integer('concurrency', 16, 'Requests in flight.', lower_bound=1)
RPM = flags.DEFINE_float('requests_per_minute', None, 'Limit; by default none.')
TPM = flags.DEFINE_float('tokens_per_minute', None, 'Limit; by default none.')
TIMEOUT = flags.DEFINE_float('timeout', 120.0, 'Seconds for one attempt at a reply.')
PATIENCE = flags.DEFINE_float(
    'patience', 900.0, 'Seconds without any answer that end the run; 60 at most for the first one.'
)
BUDGET_USD = flags.DEFINE_float('budget_usd', None, 'What the journal may cost altogether.')
BUDGET_TOKENS = flags.DEFINE_integer('budget_tokens', None, 'Likewise in tokens.')
USD_INPUT = flags.DEFINE_float('usd_per_million_input', None, 'Price of prompt tokens.')
USD_OUTPUT = flags.DEFINE_float('usd_per_million_output', None, 'Price of answer tokens.')
REQUEST = flags.DEFINE_string(
    'request',
    '{}',
    'Fields of every request, as JSON, over those of the other flags; null leaves one out. Such as '
    '{"reasoning_effort": "low", "temperature": null}.',
)
NAMES = (
    'base_url concurrency requests_per_minute tokens_per_minute timeout patience request '
    'budget_usd budget_tokens usd_per_million_input usd_per_million_output'
)


def client(model: str, base_url: str | None = None, told: bool = False) -> Client:
    """What asks the server, which is told if it is not known what the model costs.

    Args:
        model: That is asked, for its price.
        base_url: Of another server than --base_url.
        told: Whether it was told before what is not known.
    Raises:
        ValueError: one flag of them cannot be.
    """
    cost = price(model, USD_INPUT.value, USD_OUTPUT.value)
    made = Client(
        base_url or BASE_URL.value,
        price=cost,
        limits=Limits(RPM.value, TPM.value),
        retries=Retries(attempt_timeout=TIMEOUT.value),
        breaker=Breaker(deadline=PATIENCE.value),
    )
    if not cost and not told:
        print(f'What {model} costs is not known: see --usd_per_million_input.')
    return made


def budget() -> Budget:
    """What a journal may take altogether."""
    return Budget(BUDGET_USD.value, BUDGET_TOKENS.value)


def request() -> dict[str, Any]:
    """The value of --request; a ValueError where that is not an object of fields."""
    text = str(REQUEST.value)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or {'messages', 'prompt'} & fields.keys():
        raise ValueError(
            f'--request={text:.200} is not a JSON object of fields beside the prompt, such as '
            '{"top_k": 20}.'
        )
    return fields
