"""Adapters as PEFT has them: `adapter_config.json` beside small weight files."""

from belle_jax.formats.peft.reading import PeftAdapter, open
from belle_jax.formats.peft.settings import CONFIG, base_of, is_adapter
from belle_jax.formats.peft.writing import write

__all__ = ['CONFIG', 'PeftAdapter', 'base_of', 'is_adapter', 'open', 'write']
