"""Weights: Hugging Face directories and checkpoints of runs, read and written by slices.

Nothing here imports JAX unless arrays are to be placed on devices.
"""

from belle_jax.weights.export import to_huggingface
from belle_jax.weights.huggingface import resolve
from belle_jax.weights.load import (
    load_model,
    load_parameters,
    open_parameters,
    read_architecture,
)
from belle_jax.weights.run_directory import is_run_directory, open_checkpoint

__all__ = [
    'is_run_directory',
    'load_model',
    'load_parameters',
    'open_checkpoint',
    'open_parameters',
    'read_architecture',
    'resolve',
    'to_huggingface',
]
