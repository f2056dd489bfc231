"""Decoding: a model and a prompt in, text out; or a text in, and how likely it is."""

from belle_jax.decoding.engine import Completion, Engine
from belle_jax.decoding.sampling import Sampling
from belle_jax.decoding.scoring import score

__all__ = ['Completion', 'Engine', 'Sampling', 'score']
