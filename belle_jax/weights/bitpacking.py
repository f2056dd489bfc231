"""Codes of 2, 3, 4 and 8 bits packed into words of 32, as GPTQ checkpoints have them.

Along the packed axis every 32 codes of b bits are one string of 32·b bits, the first code lowest,
which is cut into b words: with 3 bits codes 10 and 21 lie across two words.

    >>> pack(np.arange(8)[:, None], 4)  # 0 to 7, filled up with zeros to 32 codes
    array([[1985229328], [0], [0], [0]], dtype=int32)     # 0x76543210
"""

import numpy as np

from belle_jax.families.packing import UNIT, words


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs codes along the first axis.

    Args:
        codes: Whole numbers [K, ...] from 0 to 2^bits - 1.
        bits: Of each code.
    Returns:
        int32 [ceil(K / 32) * bits, ...]; codes of 0 fill the last unit up.
    """
    count, *rest = codes.shape
    units = -(-count // UNIT)
    padded = np.zeros((units * UNIT, *rest), np.uint8)
    padded[:count] = codes
    padded = padded.reshape(units, UNIT, *rest)
    packed = np.zeros((units, bits, *rest), np.uint32)
    for j in range(UNIT):
        word, bit = divmod(j * bits, 32)
        code = padded[:, j].astype(np.uint32)
        packed[:, word] |= code << np.uint32(bit)
        if bit + bits > 32:
            packed[:, word + 1] |= code >> np.uint32(32 - bit)
    return packed.reshape(units * bits, *rest).view(np.int32)


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The codes of packed words along the first axis.

    Args:
        packed: int32 [W, ...]. A last unit that is not whole is taken as far as it goes.
        bits: Of each code.
        count: K, the codes that are there.
    Returns:
        uint8 [K, ...].
    """
    units = -(-count // UNIT)
    whole = packed.view(np.uint32)
    if len(whole) < units * bits:
        fill = [(0, units * bits - len(whole))] + [(0, 0)] * (whole.ndim - 1)
        whole = np.pad(whole, fill)
    whole = whole[: units * bits].reshape(units, bits, *packed.shape[1:])
    codes = np.empty((units, UNIT, *packed.shape[1:]), np.uint8)
    mask = np.uint32(2**bits - 1)
    for j in range(UNIT):
        word, bit = divmod(j * bits, 32)
        code = whole[:, word] >> np.uint32(bit)
        if bit + bits > 32:
            code |= whole[:, word + 1] << np.uint32(32 - bit)
        codes[:, j] = (code & mask).astype(np.uint8)
    return codes.reshape(units * UNIT, *packed.shape[1:])[:count]


def packed_size(count: int, bits: int) -> int:
    """Words that GPTQ checkpoints have for so many codes: no more than they need."""
    return min(words(count, bits), -(-count * bits // 32))
