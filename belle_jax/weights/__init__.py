"""A tensor in a file: safetensors and PyTorch's files, read and written by slices. No JAX here.

What a model's directory looks like is the business of `formats`, a run's of `runs`.
"""
