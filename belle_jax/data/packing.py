"""From examples of any length to segments of at most `seq_len` tokens, and those packed into bins.

The policy for a conversation that is too long, in this order:

1. Later turns are left out, whole, until the rest fits. What remains is what sampling would see.
2. If the first turn alone is too long, its prompt loses tokens from its middle (the template's
   words stand at both ends), but keeps a quarter of the row.
3. If that is not enough, the answer loses tokens from its middle as well; three quarters of what
   is kept are its beginning, the rest is its end.

So every answer that is trained on keeps its real end and its end-of-sequence token. The first
token after a gap is not trained on: nothing before it foretells it. Plain texts are never cut off:
they are split into segments that overlap by one token, so that each token but the first is learnt
from exactly once.

Bins are the rows of batches. Which segments share one is planned once from their lengths, best-fit
decreasing, on all segments of one length at once: the longest come first, each goes where it leaves
the least room. It places millions of segments in seconds.
"""

import collections
import dataclasses
import hashlib

import numpy as np

from belle_jax.config import MAX_SEGMENTS
from belle_jax.data.token_cache import TEXT, Tokens


@dataclasses.dataclass(frozen=True)
class Segments:
    """Stretches of a source's tokens; consecutive ranges with `position` > 0 go on in a segment."""

    start: np.ndarray  # int64 [ranges], into the source's tokens
    length: np.ndarray  # int64 [ranges]
    position: np.ndarray  # int64 [ranges], of the range's first token in its segment
    first: np.ndarray  # int64 [segments + 1], each segment's first range
    size: np.ndarray  # int64 [segments], tokens
    trained: int  # tokens that are targets
    counts: dict[str, int]  # kept, truncated and dropped examples, with reasons


def cut(source: Tokens, examples: np.ndarray, seq_len: int, train_on: str) -> Segments:
    """Segments of some examples of a source.

    Args:
        source: The tokens.
        examples: int64, the numbers of the examples, in order.
        seq_len: The most tokens of a segment.
        train_on: 'assistant' or 'all'.
    Returns:
        The segments, those that fit as they are first, and the account.
    """
    begin = source.bounds[examples]
    size = source.bounds[examples + 1] - begin
    learnt = source.trained_count[examples] if train_on == 'assistant' else size - 1
    useful = (learnt > 0) & (size > 1)
    counts = collections.Counter(examples=len(examples), nothing_to_learn=int((~useful).sum()))
    whole = useful & (size <= seq_len)
    counts['kept'] = int(useful.sum())
    fitting = int(whole.sum())
    heads: list[int] = []  # the first range of each segment that does not simply fit
    ranges: list[tuple[int, int, int]] = []
    for number in np.flatnonzero(useful & (size > seq_len)).tolist():
        at, length = int(begin[number]), int(size[number])
        if source.kind[examples[number]] == TEXT:
            pieces, reason = split(length, seq_len), 'texts_split'
        else:
            kept, reason = truncate(source.trained[at : at + length], seq_len)
            pieces = [kept]
            counts['tokens_left_out'] += length - sum(stop - start for start, stop in kept)
        counts[reason] += 1
        for piece in pieces:
            heads.append(fitting + len(ranges))
            position = 0
            for start, stop in piece:
                ranges.append((at + start, stop - start, position))
                position += stop - start
    simple = np.stack([begin[whole], size[whole], np.zeros(fitting, np.int64)], axis=1)
    table = np.concatenate([simple, np.asarray(ranges, np.int64).reshape(-1, 3)])
    first = np.concatenate([np.arange(fitting), np.asarray([*heads, len(table)], np.int64)])
    total = np.concatenate([[0], np.cumsum(table[:, 1])])
    return Segments(
        start=table[:, 0],
        length=table[:, 1],
        position=table[:, 2],
        first=first,
        size=total[first[1:]] - total[first[:-1]],
        trained=_targets(source, table, train_on),
        counts=dict(counts),
    )


def truncate(trained: np.ndarray, seq_len: int) -> tuple[list[tuple[int, int]], str]:
    """Which stretches of a conversation that is too long are kept.

    Args:
        trained: bool [tokens], True for answers with their end-of-sequence tokens.
        seq_len: How many tokens may remain.
    Returns:
        The (start, stop) of each stretch, in order, and the policy's rule that decided.
    """
    ends = np.flatnonzero(trained & ~np.append(trained[1:], False)) + 1
    fitting = ends[ends <= seq_len]
    if len(fitting):
        return [(0, int(fitting[-1]))], 'later_turns_left_out'
    prompt = int(np.argmax(trained)) if trained.any() else seq_len
    end = int(ends[0]) if len(ends) else prompt
    answer = end - prompt
    keep = min(prompt, max(seq_len - answer, seq_len // 4))
    room = seq_len - keep
    stretches = _without_middle(0, prompt, keep, keep - keep // 2)
    if answer <= room:
        return _joined(stretches + [(prompt, end)]), 'prompt_shortened'
    stretches += _without_middle(prompt, end, room, room - max(1, room // 4))
    return _joined(stretches), 'answer_shortened'


def split(length: int, seq_len: int) -> list[list[tuple[int, int]]]:
    """A plain text's segments: the last token of one is the first of the next."""
    starts = range(0, length - 1, seq_len - 1)
    return [[(start, min(start + seq_len, length))] for start in starts]


def _without_middle(start: int, stop: int, keep: int, head: int) -> list[tuple[int, int]]:
    if keep >= stop - start:
        return [(start, stop)]
    return [(start, start + head), (stop - (keep - head), stop)]


def _joined(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, stop in stretches:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        elif stop > start:
            joined.append((start, stop))
    return joined


def _targets(source: Tokens, ranges: np.ndarray, train_on: str) -> int:
    """How many tokens are learnt from: the trained ones that have another one before them."""
    start, length = ranges[:, 0], ranges[:, 1]
    if train_on == 'all':
        return int((length - 1).sum())
    firsts = int(source.trained[start].sum())
    merged = _merged(start, length)
    return sum(int(np.count_nonzero(source.trained[s : s + n])) for s, n in merged) - firsts


def _merged(start: np.ndarray, length: np.ndarray) -> list[tuple[int, int]]:
    """Ranges that follow each other as one: most of a source is counted in a few calls."""
    if not len(start):
        return []
    breaks = np.flatnonzero(start[1:] != start[:-1] + length[:-1]) + 1
    heads = np.concatenate([[0], breaks])
    sums = np.add.reduceat(length, heads)
    return list(zip(start[heads].tolist(), sums.tolist()))


def pack(size: np.ndarray, seq_len: int, seed: int) -> np.ndarray:
    """Puts segments into bins.

    Args:
        size: int64 [segments], tokens of each, at most `seq_len`.
        seq_len: Tokens that a bin holds.
        seed: Segments of one length change places by it.
    Returns:
        int64 [segments], the bin of each, at most MAX_SEGMENTS in one; bins are numbered from 0
        without gaps.
    """
    # Counted as at least this long, no more than MAX_SEGMENTS fit.
    size = np.maximum(size, -(-seq_len // MAX_SEGMENTS))
    bins = np.empty(len(size), np.int64)
    # Of each length its segments, in a seeded order, so that neighbours in a file are not
    # neighbours in a bin.
    order = permutation(len(size), seed, 'pack')
    order = order[np.argsort(size[order], kind='stable')]
    lengths, begins = np.unique(size[order], return_index=True)
    room: list[list[np.ndarray]] = [[] for _ in range(seq_len + 1)]  # open bins by what is free
    free = np.zeros(seq_len + 1, np.int64)  # how many of each
    opened = 0
    for length, members in reversed(list(zip(lengths.tolist(), np.split(order, begins[1:])))):
        while len(members):
            fitting = np.flatnonzero(free[length:])
            if len(fitting):
                space = length + int(fitting[0])
                chosen = _take(room[space], min(len(members), int(free[space])))
                free[space] -= len(chosen)
            else:
                space = seq_len
                count = -(-len(members) // (seq_len // length))
                chosen = np.arange(opened, opened + count)
                opened += count
            bins[members[: len(chosen)]] = chosen
            members = members[len(chosen) :]
            room[space - length].append(chosen)
            free[space - length] += len(chosen)
    return bins


def _take(groups: list[np.ndarray], count: int) -> np.ndarray:
    """Removes `count` bins from the end of a list of arrays."""
    taken = []
    while count:
        group = groups.pop()
        if len(group) > count:
            groups.append(group[:-count])
            group = group[-count:]
        taken.append(group)
        count -= len(group)
    return np.concatenate(taken)


def permutation(count: int, *key: int | str) -> np.ndarray:
    """A permutation of 0 .. count-1, decided by the key alone.

    It is the same on every host, machine and version of numpy: a run is resumed by it years later,
    and numpy does not promise its generators' streams.

    Args:
        count: How many numbers.
        *key: Such as (seed, epoch) or (seed, 'validation').
    Returns:
        int64 [count].
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    with np.errstate(over='ignore'):
        # SplitMix64 (Steele et al., 2014) of consecutive numbers; ties keep their order.
        x = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(int.from_bytes(digest, 'little'))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return np.argsort(x, kind='stable')
