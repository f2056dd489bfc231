"""Meta's LLaMA files, in and out."""

from belle_jax.formats.meta.directory import open, write

__all__ = ['open', 'write']
