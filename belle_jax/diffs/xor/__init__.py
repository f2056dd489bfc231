"""BELLE's XOR diffs: `.enc` files, made, restored and verified."""

from belle_jax.diffs.xor.directory import decrypt, encrypt, verify

__all__ = ['decrypt', 'encrypt', 'verify']
