"""Decoding: a model and a prompt in, text out."""

from belle_jax.decoding.engine import Completion, Engine, score
from belle_jax.decoding.sampling import Sampling

__all__ = ['Completion', 'Engine', 'Sampling', 'score']
