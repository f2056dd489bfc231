"""Hugging Face's directories, which every other layout is converted from and to."""

from belle_jax.formats.huggingface.config import (
    architecture_from_config,
    architecture_to_hf_config,
    generation_config,
    read_architecture,
)
from belle_jax.formats.huggingface.directory import (
    HUB_FILES,
    LICENCE_FILES,
    SETTINGS_FILES,
    copy,
    resolve,
)
from belle_jax.formats.huggingface.model import open, write

__all__ = [
    'HUB_FILES',
    'LICENCE_FILES',
    'SETTINGS_FILES',
    'architecture_from_config',
    'architecture_to_hf_config',
    'copy',
    'generation_config',
    'open',
    'read_architecture',
    'resolve',
    'write',
]
