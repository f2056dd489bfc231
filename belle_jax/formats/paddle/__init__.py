"""PaddleNLP's files, in and out."""

from belle_jax.formats.paddle.directory import from_paddle, to_paddle

__all__ = ['from_paddle', 'to_paddle']
