"""A model as its difference from another: `make` and `apply`."""

from belle_jax.diffs.delta.applying import apply
from belle_jax.diffs.delta.making import LEVEL, make

__all__ = ['LEVEL', 'apply', 'make']
