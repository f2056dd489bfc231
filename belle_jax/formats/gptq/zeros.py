"""The zero points of GPTQ checkpoints, packed along the outputs.

Version 1 of the format stores z - 1, which for z = 0 does not fit. What is in the file then depends
on the program that wrote it:

- AutoGPTQ and GPTQ-for-LLaMa pack -1 as 32 bits of ones, which covers all later zeros of the word;
- GPTQModel subtracts one from every zero of a whole word at once, so that the next zero lends one;
  its 3-bit words go zero by zero, modulo 8;
- readers of a single zero take a stored 15 for 16 (exllama) or for 0.

A stored 2^bits - 1 can mean nothing but such a zero, for quantisers give none above 2^bits - 1.
"""

import numpy as np

from belle_jax.families.packing import UNIT
from belle_jax.weights import bitpacking
from belle_jax.weights.tensors import Stored


def read(stored: Stored, bits: int, count: int, version: int, whole_words: bool) -> np.ndarray:
    """The zeros of a matrix.

    Args:
        stored: int32 [G, W], packed along the second axis.
        bits: Of each zero.
        count: N, the outputs.
        version: 1 where z - 1 is stored, 2 where z is.
        whole_words: Whether GPTQModel wrote them.
    Returns:
        uint8 [G, N].
    Raises:
        ValueError: version 1 of an unknown program has a zero of 0 before others in a word.
    """
    words, top = stored.array, 2**bits - 1
    fields = bitpacking.unpack(words.T, bits, count).T
    if version == 2:
        return fields
    zeros = (fields + np.uint8(1)) & np.uint8(top)
    wrapped = fields == top
    if not wrapped.any() or (whole_words and UNIT % bits):
        return zeros
    if not UNIT % bits:
        ones = np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
        carried = bitpacking.unpack((words.view(np.uint32) + ones).view(np.int32).T, bits, count).T
        # Above the last zero of a word is nothing that it could spoil.
        if whole_words or np.array_equal(carried, zeros):
            return carried
    raise ValueError(
        f'{stored.place} has zero points of 0, which version 1 of the format stores as -1: what '
        'became of their neighbours depends on the program that wrote it. Save the model as '
        'gptq_v2 with that program, or quantise it again.'
    )
