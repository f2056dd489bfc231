"""BELLE's XOR diffs: `.enc` files, made, restored and verified."""

from belle_jax.weights.xor.directory import decrypt, encrypt
from belle_jax.weights.xor.verification import verify

__all__ = ['decrypt', 'encrypt', 'verify']
