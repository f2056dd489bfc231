"""Meta's LLaMA files, in and out."""

from belle_jax.formats.meta.directory import from_meta, to_meta

__all__ = ['from_meta', 'to_meta']
