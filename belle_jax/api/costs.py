"""What requests take: tokens, guessed and as counted, what they cost, and what a run may take."""

from dataclasses import dataclass
from typing import Any

# What is reserved for an answer whose length the request does not bound, in tokens.
UNBOUNDED = 4096


@dataclass(frozen=True)
class Budget:
    """What a journal may take altogether, its earlier runs included; None for any."""

    usd: float | None = None
    tokens: int | None = None


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


# OpenAI's list prices as last published for these names. A dated name (gpt-4o-2024-05-13) may cost
# something else, so names are matched as a whole.
PRICES = {
    'gpt-3.5-turbo': Price(0.5, 1.5),
    'gpt-3.5-turbo-instruct': Price(1.5, 2.0),
    'gpt-4': Price(30.0, 60.0),
    'gpt-4-turbo': Price(10.0, 30.0),
    'gpt-4.1': Price(2.0, 8.0),
    'gpt-4.1-mini': Price(0.4, 1.6),
    'gpt-4.1-nano': Price(0.1, 0.4),
    'gpt-4o': Price(2.5, 10.0),
    'gpt-4o-mini': Price(0.15, 0.6),
}


def price(model: str, input: float | None = None, output: float | None = None) -> Price:
    """The price of a model.

    Args:
        model: Its name.
        input: USD for a million tokens of the prompt; wins over the table.
        output: Likewise, of the answer.
    Returns:
        The price, which is false where it is not known: say so, as costs are then 0.
    Raises:
        ValueError: for a negative price, or one of the two alone for a model not in the table.
    """
    known = PRICES.get(model)
    if known is None and (input is None) != (output is None):
        raise ValueError(
            f'only one price is given for model {model!r}, whose price is not known: give the '
            f'price of a million tokens both of the prompt and of the answer.'
        )
    known = known or Price()
    found = Price(
        known.input if input is None else input, known.output if output is None else output
    )
    if found.input < 0 or found.output < 0:
        raise ValueError(f'a price of {min(found.input, found.output)} USD: prices are 0 or more.')
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


def counted_tokens(usage: dict[str, Any]) -> tuple[int, int] | None:
    """The tokens that a server counted.

    Args:
        usage: As it came.
    Returns:
        Tokens of prompt and answer, or None where it did not count.
    """
    numbers = [usage.get(name) or 0 for name in ('prompt_tokens', 'completion_tokens')]
    if not any(numbers) or not all(isinstance(n, int | float) for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def _text(content: Any) -> str:
    """A message's content, or a prompt, which both may be a text or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return ''.join(part if isinstance(part, str) else _part(part) for part in content)
    return ''


def _part(part: Any) -> str:
    return str(part.get('text', '')) if isinstance(part, dict) else ''
