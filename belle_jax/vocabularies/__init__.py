"""Vocabularies: a model's tokenizer and tables with more pieces, or with those that texts need."""

from belle_jax.vocabularies.extension import extend
from belle_jax.vocabularies.pruning import prune

__all__ = ['extend', 'prune']
