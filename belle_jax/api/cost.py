"""What requests take: tokens and money, before the server has counted and after."""

import functools
import importlib.resources
import json
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

# What is reserved for an answer whose length the request does not bound, in tokens.
UNBOUNDED = 4096
# Below this an answer is not worth having.
FEWEST_TOKENS = 16
# No request takes as many tokens: a server that says so did not count.
MOST_COUNTED = 10**9


@dataclass(frozen=True)
class Budget:
    """What a journal may take altogether, its earlier runs included; None for any."""

    usd: float | None = None
    tokens: int | None = None


class Spent(NamedTuple):
    """What a journal's requests took, those that were given up included."""

    prompt_tokens: int
    completion_tokens: int
    cost_usd: float

    @property
    def tokens(self) -> int:
        """Of prompts and answers."""
        return self.prompt_tokens + self.completion_tokens


class Lost(NamedTuple):
    """Requests that were at a server when their run was killed: whether they are paid for nobody
    knows, so the most that they may take is counted, apart."""

    requests: int
    tokens: int
    cost_usd: float


@dataclass(frozen=True)
class Price:
    """USD for a million tokens of the prompt and of the answer; both 0 where nothing is known."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD for that many tokens."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6

    def __bool__(self) -> bool:
        return bool(self.input or self.output)


@functools.cache
def _list_prices() -> dict[str, Price]:
    """The prices of prices.json, which says of when they are and where they were read."""
    file = importlib.resources.files('belle_jax.api') / 'prices.json'
    known = json.loads(file.read_text('utf-8'))['usd_per_million_tokens']
    # A dated name (gpt-4o-2024-05-13) may cost something else, so names are matched as a whole.
    return {model: Price(*pair) for model, pair in known.items()}


def price(model: str, input: float | None = None, output: float | None = None) -> Price:
    """The price of a model.

    Args:
        model: Its name.
        input: USD for a million tokens of the prompt; wins over the list.
        output: Likewise, of the answer.
    Returns:
        The price, which is false where it is not known: say so, as costs are then 0.
    Raises:
        ValueError: for a negative price, or one of the two alone for a model not in the list.
    """
    if model not in _list_prices() and (input is None) != (output is None):
        raise ValueError(
            f'only one price is given for model {model!r}, whose price is not known: give the '
            f'price of a million tokens both of the prompt and of the answer.'
        )
    known = _list_prices().get(model, Price())
    given = {'input': input, 'output': output}
    found = replace(known, **{side: usd for side, usd in given.items() if usd is not None})
    for usd in (found.input, found.output):
        if not 0 <= usd < math.inf:
            raise ValueError(f'a price of {usd} USD: prices are 0 or more, and finite.')
    return found


def prompt_tokens(body: dict[str, Any]) -> int:
    """A cautious guess at a prompt's tokens: half its bytes, so 1.5 for a Chinese character.

    Args:
        body: Of a request.
    Returns:
        Tokens, for limits and budgets before the server has counted.
    """
    if 'messages' not in body:
        return text_tokens(_text(body.get('prompt', '')))
    # Each message is wrapped in a few tokens of its own.
    return 3 + sum(text_tokens(_text(m.get('content'))) + 4 for m in body['messages'])


def text_tokens(text: str) -> int:
    """The same guess for a text."""
    return -(-len(text.encode('utf-8', 'replace')) // 2)


def answer_tokens(body: dict[str, Any]) -> int:
    """The longest answer that a body allows, in tokens: all its choices together."""
    longest = body.get('max_tokens') or body.get('max_completion_tokens') or UNBOUNDED
    return int(longest) * int(body.get('n') or 1)


def paid_tokens(body: dict[str, Any], usage: dict[str, Any], text: str) -> tuple[int, int]:
    """The tokens of prompt and answer that an attempt is charged for.

    What the server counted, if that can be a count, and else our guess. Some count a model's
    reasoning in the total alone, and charge for it: an answer takes what the total leaves it.

    Args:
        body: That was sent.
        usage: Of the server; {} where it counted nothing.
        text: Of the answer.
    """
    counts = (usage.get(f'{part}_tokens') for part in ('prompt', 'completion', 'total'))
    prompt, answer, total = map(_count, counts)
    prompt = prompt or prompt_tokens(body)
    return prompt, max(answer, total - prompt) or text_tokens(text)


def _count(number: Any) -> int:
    """A number of a server's usage; 0 where it cannot be a count."""
    good = isinstance(number, int | float) and 0 <= number <= MOST_COUNTED
    return int(number) if good and not isinstance(number, bool) else 0


def _text(content: Any) -> str:
    """A message's content, or a prompt, which both may be a text or a list of parts."""
    if isinstance(content, list):
        return ''.join(map(_text, content))
    if isinstance(content, dict):
        return str(content.get('text', ''))
    return content if isinstance(content, str) else ''
