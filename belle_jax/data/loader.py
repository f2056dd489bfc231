"""Batches ahead of time: Grain's threads build the next steps while the device is busy.

Batches are functions of the step, so reading ahead needs no order, no state and no processes; the
work is indexing in numpy, which lets go of Python's lock.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from belle_jax.data.plan import Batch, Plan


class _Steps:
    """A plan's steps as a random-access source of Grain's."""

    def __init__(self, plan: Plan, start: int, stop: int, rows: np.ndarray | None) -> None:
        self._plan, self._start, self._stop, self._rows = plan, start, stop, rows

    def __len__(self) -> int:
        return max(0, self._stop - self._start)

    def __getitem__(self, index: int) -> Batch:
        return self._plan.batch(self._start + index, self._rows)

    def __repr__(self) -> str:
        return f'steps {self._start} to {self._stop} of plan {self._plan.fingerprint}'


def load(
    plan: Plan,
    rows: Sequence[int] | np.ndarray | None = None,
    start: int = 0,
    stop: int | None = None,
    ahead: int = 4,
) -> Iterator[Batch]:
    """The batches of steps `start` up to `stop`, in order.

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
    steps = _Steps(plan, start, stop, None if rows is None else np.asarray(rows))
    if not ahead or not len(steps):
        return (steps[i] for i in range(len(steps)))
    import grain  # slow to import, and it imports JAX

    options = grain.ReadOptions(num_threads=min(4, ahead), prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.source(steps).to_iter_dataset(options))
