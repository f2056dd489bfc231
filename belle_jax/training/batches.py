"""From a step's planned rows to arrays on the mesh, each host reading its devices' rows only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from belle_jax import sharding


class Placement:
    """Which rows of a global batch this process reads, and how they become global arrays.

    A step's rows 0 … size-1 are split into micro-batches: row r is in micro-batch r // (size / A).
    """

    def __init__(self, mesh: jax.sharding.Mesh, size: int, accumulation: int, seq_len: int):
        """Finds this process's rows.

        Args:
            mesh: The run's mesh.
            size: Rows of a step in all.
            accumulation: A, micro-batches of a step.
            seq_len: T in tokens.
        """
        self.sharding = batch_sharding(mesh)
        self.shape = (accumulation, size // accumulation, seq_len)
        slices: Any = self.sharding.addressable_devices_indices_map(self.shape).values()
        local = sorted({r for s in slices for r in range(*s[1].indices(self.shape[1]))})
        self._local = np.asarray(local)
        self.rows: Sequence[int] = [
            a * self.shape[1] + r for a in range(accumulation) for r in local
        ]

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Global arrays [A, B, T] from this process's rows [len(rows), T]."""

        def place(array: np.ndarray) -> jax.Array:
            array = array.reshape(self.shape[0], len(self._local), *array.shape[1:])

            def of_device(index: Any) -> np.ndarray:
                rows = np.arange(*index[1].indices(self.shape[1]))
                return array[:, np.searchsorted(self._local, rows)]

            return jax.make_array_from_callback(self.shape, self.sharding, of_device)

        return {name: place(array) for name, array in batch.items()}

    def stream(self, batches: Iterator[Mapping[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
        """`put` over an iterator, one batch ahead of its use."""
        ahead = None
        for batch in batches:
            placed = self.put(batch)
            if ahead is not None:
                yield ahead
            ahead = placed
        if ahead is not None:
            yield ahead


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Of batch arrays [A, B, T]: each device holds its rows of every micro-batch."""
    return sharding.named(mesh, (None, 'batch', 'length'))
