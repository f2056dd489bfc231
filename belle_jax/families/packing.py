"""How the matrices of a quantised model are kept: a few bits a weight, packed into words.

A weight of an input i and an output o is `scales[g, o] * (codes[i, o] - zeros[g, o])`, where g is
the group that i belongs to. The arrays are those of GPTQ checkpoints, but for zeros, which are
kept a byte each: one notation for files, parameters and the process that makes them.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator

from belle_jax.families.published import HEAD, TensorMap

BITS = (2, 3, 4, 8)
UNIT = 32
"""Codes that are packed together: with b bits into b words of 32 bits."""

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Levels of 4-bit NormalFloat: quantiles of a normal distribution, scaled to [-1, 1].

Source: Dettmers et al., 2023 (QLoRA), appendix E.
"""

INTEGERS = {'qweight': 'int32', 'qzeros': 'uint8', 'g_idx': 'int32'}
"""Tensors of a quantised model that are no floating-point numbers, by the end of their names."""


@dataclasses.dataclass(frozen=True)
class Packing:
    """What is the same for all matrices of a quantised model.

    Attributes:
        bits: Of a code: 2, 3, 4 or 8.
        group_size: Inputs that share a scale and a zero; 0: all inputs of a matrix.
        symmetric: Whether every zero is half the range, so that there are no `zeros`.
        act_order: Whether inputs belong to groups in another order than they come, so that there
            are `groups`.
        tables: Bits of the codes of the tables over the vocabulary; 0: they are not quantised.
            Their groups are rows of `group_size` channels, symmetric.
        embedding: Whether the embedding is among those tables; otherwise the output table alone is.
        levels: What each code stands for, times the scale; empty: codes are evenly spaced.
    """

    bits: int
    group_size: int = 128
    symmetric: bool = True
    act_order: bool = False
    tables: int = 0
    embedding: bool = True
    levels: tuple[float, ...] = ()

    def __post_init__(self):
        if self.bits not in BITS or self.tables not in (0, *BITS):
            raise ValueError(
                f'{self.bits} bits for layers and {self.tables} for tables: there are codes of '
                f'{", ".join(map(str, BITS))} bits.'
            )
        if self.group_size < 0:
            raise ValueError(f'group_size={self.group_size}: a group has at least one input.')

    def has_table(self, entry: TensorMap) -> bool:
        """Whether a parameter is one of the tables that are quantised."""
        wanted = self.embedding or entry.theirs == HEAD
        return bool(self.tables and entry.padded and wanted)

    def of_tables(self) -> 'Packing':
        """How a table is packed, as if it were a matrix of a layer."""
        return Packing(self.tables, self.group_size)

    def words(self, inputs: int) -> int:
        """Words that a column of so many inputs takes; the last unit is filled up."""
        return words(inputs, self.bits)

    def groups(self, inputs: int) -> int:
        """Groups that so many inputs fall into; the last may be smaller."""
        return groups(inputs, self.group_size)


def words(inputs: int, bits: int) -> int:
    """Words of 32 bits that codes take, in whole units."""
    return -(-inputs // UNIT) * bits


def groups(inputs: int, group_size: int) -> int:
    """Groups that inputs fall into; a size of 0 is one group."""
    return -(-inputs // group_size) if group_size else 1


def is_matrix(entry: TensorMap) -> bool:
    """Whether a parameter is a matrix of a layer: what is quantised."""
    return bool(entry.inputs and entry.layers)


def packed_maps(entries: Iterable[TensorMap], packing: Packing | None) -> Iterator[TensorMap]:
    """The parameters of a quantised model and the tensors of a GPTQ checkpoint that hold them.

    Args:
        entries: Those of the model as it was.
        packing: How it is quantised; None: not at all.
    """
    for entry in entries:
        if packing and is_matrix(entry):
            yield from _matrix(entry, packing)
        elif packing and packing.has_table(entry):
            yield from _table(entry, packing)
        else:
            yield entry


def _matrix(entry: TensorMap, packing: Packing) -> Iterator[TensorMap]:
    split = len(entry.fold) - entry.inputs
    outputs, inputs = entry.fold[:split], math.prod(entry.fold[split:])
    rows = packing.groups(inputs)
    yield _part(entry, 'words', 'qweight', (packing.words(inputs), *outputs))
    yield _part(entry, 'scales', 'scales', (rows, *outputs))
    if not packing.symmetric:
        yield _part(entry, 'zeros', 'qzeros', (rows, *outputs))
    if packing.act_order:
        yield _part(entry, 'groups', 'g_idx', (inputs,))


def _part(entry: TensorMap, ours: str, theirs: str, fold: tuple[int, ...]) -> TensorMap:
    base, their_base = entry.ours.removesuffix('kernel'), entry.theirs.removesuffix('weight')
    return TensorMap(
        base + ours, their_base + theirs, fold, tuple(range(len(fold))), len(fold) - 1, entry.layers
    )


def _table(entry: TensorMap, packing: Packing) -> Iterator[TensorMap]:
    rows, width = entry.fold
    base, their_base = entry.ours.removesuffix('table'), entry.theirs.removesuffix('weight')
    for ours, theirs, size in (
        ('words', 'qweight', words(width, packing.tables)),
        ('scales', 'scales', packing.groups(width)),
    ):
        # A checkpoint has inputs first; here a token is a row, padded like the table.
        yield TensorMap(
            base + ours, their_base + theirs, (size, rows), (1, 0), 1, padded=entry.padded
        )
