"""A `config.json` of Hugging Face's, whose settings have been written under several names."""

from collections.abc import Mapping
from typing import Any

ACTIVATIONS = {
    'silu': 'silu',
    'swish': 'silu',
    'gelu': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_fast': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'relu': 'relu',
}
"""Ours by the names that configurations use."""

ACTIVATION_NAMES = {
    'silu': 'silu',
    'gelu': 'gelu',
    'gelu_tanh': 'gelu_pytorch_tanh',
    'relu': 'relu',
}
"""What configurations are written with, by our names."""


class PublishedConfig:
    """Looks a setting up under its old and new names."""

    def __init__(self, values: Mapping[str, Any]):
        """
        Args:
            values: Those of the file.
        """
        self.values = values

    def get(self, *names: str, default: Any = None) -> Any:
        """The value of the first name that has one; null counts as none."""
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        return default

    def count(self, *names: str, default: int | None = None) -> int:
        """As `get`, of a positive whole number.

        Raises:
            ValueError: it is something else; it is named.
        """
        value = self.get(*names, default=default)
        if type(value) is not int or value < 1:
            raise ValueError(f'{names[0]}={value!r} must be a positive whole number.')
        return value

    def activation(self, name: str, default: str) -> str:
        """One of ours.

        Raises:
            ValueError: it is not known here.
        """
        value = self.get(name, default=default)
        if value not in ACTIVATIONS:
            raise ValueError(f'{name}={value!r} is not known: {", ".join(ACTIVATIONS)} are.')
        return ACTIVATIONS[value]
