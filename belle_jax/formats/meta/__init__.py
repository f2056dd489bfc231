"""Meta's LLaMA files, in and out."""

from belle_jax.formats.meta.reader import open
from belle_jax.formats.meta.writer import write

__all__ = ['open', 'write']
