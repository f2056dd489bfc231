"""The plan of a run's batches: a batch is a function of the plan and the step, and of nothing else.

An epoch is a list of bins; epochs permute it by (seed, epoch); row r of step s is entry
s * batch + r of the endless list of epochs. So a batch may straddle two epochs, only the last one
of a run is padded, the number of steps is known from the start, and a run goes on at any step, on
any number of hosts, without a state to save.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from belle_jax.data.packing import Segments, pack, permutation
from belle_jax.data.token_cache import Tokens

BatchArrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Bins:
    """One source's bins: its segments' ranges in the order of the bins."""

    source: Tokens
    first: np.ndarray  # int64 [bins + 1], each bin's first range
    start: np.ndarray  # int64 [ranges], into the source's tokens
    length: np.ndarray  # int64 [ranges]
    position: np.ndarray  # int64 [ranges], of the first token in its segment
    segment: np.ndarray  # int64 [ranges], number of the segment in its bin, from 1
    column: np.ndarray  # int64 [ranges], of the first token in its row
    weight: float  # passes an epoch

    def __len__(self) -> int:
        return len(self.first) - 1


def plan_bins(
    source: Tokens, segments: Segments, *, weight: float, seq_len: int, packing: bool, seed: int
) -> Bins:
    """Packs a source's segments, or gives each a bin of its own.

    Args:
        source: The tokens.
        segments: What `cut` returned.
        weight: Passes an epoch.
        seq_len: Tokens of a bin.
        packing: False: one segment a bin.
        seed: See `pack`.
    Returns:
        The bins.
    """
    count = len(segments.size)
    bins = pack(segments.size, seq_len, seed) if packing else np.arange(count, dtype=np.int64)
    order = np.argsort(bins, kind='stable')
    bins = bins[order]
    parts = np.diff(segments.first)[order]  # ranges of each segment
    ranges = spans(segments.first[:-1][order], parts)
    total = int(bins[-1]) + 1 if count else 0
    heads = np.searchsorted(bins, np.arange(total + 1))  # each bin's first segment
    sizes = segments.size[order]
    before = np.cumsum(sizes) - sizes
    column = before - np.repeat(before[heads[:-1]], np.diff(heads))
    number = np.arange(count) - np.repeat(heads[:-1], np.diff(heads)) + 1
    position = segments.position[ranges]
    return Bins(
        source=source,
        first=np.concatenate([[0], np.cumsum(parts)])[heads],
        start=segments.start[ranges],
        length=segments.length[ranges],
        position=position,
        segment=np.repeat(number, parts),
        column=np.repeat(column, parts) + position,
        weight=weight,
    )


def spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start+1, ... of each span, one after the other."""
    ends = np.cumsum(lengths)
    offset = np.repeat(starts - (ends - lengths), lengths)
    return offset + np.arange(len(offset))


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Every batch of a run."""

    sources: tuple[Bins, ...]
    seq_len: int
    batch_size: int  # rows a step, over all hosts
    seed: int
    train_on: str
    shuffled: bool  # False: one epoch after the other in the order of the bins, for validation
    fingerprint: str  # equal for equal plans
    limit: int | None = None  # rows in all, after which they are empty; None: epochs without end

    @functools.cached_property
    def rows_per_epoch(self) -> int:
        """Bins an epoch."""
        return sum(self._passes(bins)[1] for bins in self.sources)

    def until(self, epochs: float) -> 'Plan':
        """The plan that ends after that many epochs."""
        return dataclasses.replace(self, limit=round(epochs * self.rows_per_epoch))

    def steps(self, epochs: float | None = None) -> int:
        """Steps of that many epochs, by default of `limit` rows; the last may be partly padding."""
        rows = self.limit if epochs is None else round(epochs * self.rows_per_epoch)
        if rows is None:
            raise ValueError('a plan without a limit has no last step: say how many epochs.')
        return math.ceil(rows / self.batch_size)

    def batch(self, step: int, rows: Sequence[int] | np.ndarray | None = None) -> BatchArrays:
        """The arrays of one step.

        Args:
            step: From 0.
            rows: Which rows of the global batch, by default all `batch_size`.
        Returns:
            tokens, targets, segment_ids, positions int32 and weights float32, each
            [rows, seq_len]. A target is the next token of the same segment (0 where there is none),
            its weight 1 where it is learnt from; segments are numbered from 1 in each row, 0 is
            padding; positions restart in each segment.
        """
        rows = np.arange(self.batch_size) if rows is None else np.asarray(rows, np.int64)
        shape = (len(rows), self.seq_len)
        tokens, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
        trained = np.zeros(shape, bool)
        owner, bins = self._bins(step * self.batch_size + rows)
        for number, source in enumerate(self.sources):
            mine = np.flatnonzero(owner == number)
            if len(mine):
                flat = [a.reshape(-1) for a in (tokens, trained, segments, positions)]
                _fill(source, bins[mine], mine * self.seq_len, flat)
        if self.train_on == 'all':
            trained |= segments > 0
        trained &= positions >= 0  # the first token after a gap is marked by a negative position
        np.abs(positions, out=positions)
        targets = np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        same = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        np.multiply(tokens[:, 1:], same, out=targets[:, :-1])
        np.logical_and(trained[:, 1:], same, out=weights[:, :-1], casting='unsafe')
        return {
            'tokens': tokens,
            'targets': targets,
            'weights': weights,
            'segment_ids': segments,
            'positions': positions,
        }

    def _passes(self, bins: Bins) -> tuple[int, int]:
        """Whole passes of a source an epoch, and its bins an epoch with the part of one."""
        whole = math.floor(bins.weight)
        return whole, whole * len(bins) + round((bins.weight - whole) * len(bins))

    def _bins(self, entries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The (source, bin) of entries of the endless list of epochs; source -1 past its limit."""
        owner = np.full(len(entries), -1, np.int64)
        bins = np.zeros(len(entries), np.int64)
        inside = entries < self.limit if self.limit is not None else np.ones(len(entries), bool)
        epochs = entries // self.rows_per_epoch
        for epoch in np.unique(epochs[inside]).tolist():
            here = inside & (epochs == epoch)
            owners, numbers = self._epochs(epoch)
            at = entries[here] - epoch * self.rows_per_epoch
            owner[here], bins[here] = owners[at], numbers[at]
        return owner, bins

    @functools.cached_property
    def _epochs(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        return functools.lru_cache(2)(self._make_epoch)  # two: a batch may straddle them

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The sources and bins of an epoch, in order."""
        owners, numbers = [], []
        for index, bins in enumerate(self.sources):
            whole, total = self._passes(bins)
            part = total - whole * len(bins)
            mine = np.tile(np.arange(len(bins)), whole)
            if part:
                # A window that moves on through one order: over the epochs all come equally often.
                order = permutation(len(bins), self.seed, 'part', index)
                window = np.arange(epoch * part, (epoch + 1) * part) % len(bins)
                mine = np.concatenate([mine, order[window]])
            owners.append(np.full(total, index, np.int64))
            numbers.append(mine)
        owner, number = np.concatenate(owners), np.concatenate(numbers)
        if not self.shuffled:
            return owner, number
        order = permutation(len(owner), self.seed, 'epoch', epoch)
        return owner[order], number[order]


def _fill(source: Bins, bins: np.ndarray, begins: np.ndarray, flat: list[np.ndarray]) -> None:
    """Writes bins into rows that begin at these places of the flat arrays.

    The first token after a gap gets its position's negative.
    """
    tokens, trained, segments, positions = flat
    counts = source.first[bins + 1] - source.first[bins]
    ranges = spans(source.first[bins], counts)
    length, position = source.length[ranges], source.position[ranges]
    corner = np.repeat(begins, counts) + source.column[ranges]
    there = spans(corner, length)
    here = spans(source.start[ranges], length)
    tokens[there] = source.source.tokens[here]
    trained[there] = source.source.trained[here]
    segments[there] = np.repeat(source.segment[ranges], length)
    positions[there] = spans(position, length)
    positions[corner[position > 0]] *= -1


def load(
    plan: Plan,
    rows: Sequence[int] | np.ndarray | None = None,
    start: int = 0,
    stop: int | None = None,
    ahead: int = 4,
) -> Iterator[BatchArrays]:
    """The batches of steps `start` up to `stop`, in order, made ahead of time.

    Grain's threads build the next ones while the device is busy. Batches are functions of the step,
    so reading ahead needs no order, no state and no processes; the work is indexing in numpy, which
    lets go of Python's lock.

    Args:
        plan: What to load.
        rows: The rows of the global batch that this host needs; by default all.
        start: The first step, which is where a resumed run goes on.
        stop: The step after the last; by default `plan.steps()`.
        ahead: How many batches to build ahead; 0 builds each when it is asked for.
    Returns:
        An iterator of what `Plan.batch` returns.
    """
    stop = plan.steps() if stop is None else stop
    rows = None if rows is None else np.asarray(rows)
    if not ahead or start >= stop:
        return (plan.batch(step, rows) for step in range(start, stop))
    import grain  # slow to import, and it imports JAX

    options = grain.ReadOptions(num_threads=min(4, ahead), prefetch_buffer_size=ahead)
    steps = grain.MapDataset.range(start, stop).map(lambda step: plan.batch(step, rows))
    return iter(steps.to_iter_dataset(options))
