"""What tokens cost."""

from dataclasses import dataclass


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
