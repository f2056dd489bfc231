"""Quantised models as GPTQ checkpoints, compressed-tensors and BELLE's bare files: read, written.

Whatever the layout, a model here has the tensors of `families.packed_maps`: words in whole units
of 32 codes, and zeros a byte each with their true values.
"""

from belle_jax.formats.gptq.directory import is_quantised, open
from belle_jax.formats.gptq.writing import FORMATS, write

__all__ = ['FORMATS', 'is_quantised', 'open', 'write']
