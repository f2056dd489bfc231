"""Instruction data from seeds: prompts, parsing, filters, similarity. Imports no JAX."""

from belle_jax.synthesis.kinds import KINDS, Kind, make
from belle_jax.synthesis.parsing import Candidate
from belle_jax.synthesis.settings import Settings
from belle_jax.texts.filters import Row, Rule, apply_rules, without

__all__ = [
    'KINDS',
    'Candidate',
    'Kind',
    'Row',
    'Rule',
    'Settings',
    'apply_rules',
    'make',
    'without',
]
