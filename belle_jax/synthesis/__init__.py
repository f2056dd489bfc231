"""Instruction data from seeds: prompts, parsing, filters, similarity. Imports no JAX."""

from belle_jax.synthesis.candidate import Candidate, Row
from belle_jax.synthesis.filters import Rule, apply_rules, without
from belle_jax.synthesis.kinds import KINDS, Kind, make
from belle_jax.synthesis.settings import Settings

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
