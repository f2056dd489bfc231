"""PaddleNLP's files, in and out."""

from belle_jax.formats.paddle.directory import open, write

__all__ = ['open', 'write']
