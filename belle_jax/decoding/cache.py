"""Shapes that decoding compiles for: few of them, so that few programs serve every prompt.

Prompts are padded on the right. Padding writes keys and values behind a row's text; but a query
reads only up to its own position, and by then the row's own tokens have overwritten them. So no
mask is needed, and a row's length alone says what its cache holds.
"""

from collections.abc import Sequence

PREFILL_CHUNK = 512
"""Tokens of a prompt that are read at once: attention scores of no more exist at a time."""


def bucket(size: int, smallest: int) -> int:
    """The next of smallest · {1, 1.5, 2, 3, 4, 6, 8, ...}: at most a third is padding.

    Args:
        size: What must fit.
        smallest: An even number.
    """
    step = smallest
    while step < size:
        if step * 3 // 2 >= size:
            return step * 3 // 2
        step *= 2
    return step


def prompt_length(longest: int) -> int:
    """Tokens that a batch's prompts are padded to."""
    padded = bucket(longest, 16)
    return padded if padded <= PREFILL_CHUNK else -(-padded // PREFILL_CHUNK) * PREFILL_CHUNK


def total_length(padded_prompt: int, longest: int) -> int:
    """Slots of a batch's cache.

    Args:
        padded_prompt: From `prompt_length`.
        longest: The largest sum of a prompt and its new tokens.
    """
    return max(padded_prompt, bucket(longest, 64))


def batch_rows(rows: int, multiple: int = 1) -> int:
    """Rows that a batch is padded to: a power of two and a multiple of the mesh's batch shards."""
    padded = 1 << (rows - 1).bit_length()
    return -(-padded // multiple) * multiple


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Groups rows of similar length.

    Args:
        lengths: Of each row, in tokens.
        size: Rows of a batch.
    Returns:
        Indices into `lengths`, longest rows first: what does not fit into memory shows at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + size] for i in range(0, len(order), size)]
