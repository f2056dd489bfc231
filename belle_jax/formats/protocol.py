"""What every published layout offers: a model opened from a directory, and one written to it.

`open(directory)` of a layout gives a `PublishedModel`, whose tensors have Hugging Face's names and
shapes whatever the files have: `match` accounts for all of them. `write(model, directory)` takes
one from any layout. A conversion is one of them after the other, and nothing but a few blocks of
rows is in memory.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.families import HEAD, Architecture, Family, Packing, TensorMap
from belle_jax.families.packing import INTEGERS
from belle_jax.files import new_directory
from belle_jax.weights.tensors import (
    DTYPES,
    Index,
    Planned,
    Stored,
    in_dtype,
    planned,
    proven,
    same,
    shown,
)

WRAPPERS = re.compile(r'^((module|_orig_mod)\.)+')
"""What torch's data parallel and compiled models put before every name."""


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A model whose files are open: every tensor is known, and no number is read yet.

    It is one of the kinds of `runs.parameters.Parameters`: `read` gives slices of ours, if its
    tensors are `Stored`.

    Attributes:
        directory: Where it lies, for messages, and for files that only one other layout knows.
        architecture: The model.
        tensors: By Hugging Face's names, in the order in which they are written. `Stored` ones are
            views of mapped files, from which any slice can be taken; `Planned` ones come in order.
        dtype: Of most of them: 'float32', 'bfloat16' or 'float16'.
        carry: Puts the small files (tokenizer, licence, model card, settings for generating), as
            Hugging Face has them, into a directory that has its `config.json`; gives the sentences
            that a person should read.
        config: A published `config.json` that describes the model; None: it is made.
        notes: Sentences that a person should read before the work begins.
        stored: Tensors of files whose checksums are compared while all is written.
        adapter: None: such files hold none.
        packing: How it is quantised; its tensors are then those of `families.packed_maps`. None: it
            is not.
    """

    directory: Path
    architecture: Architecture
    tensors: Mapping[str, Stored | Planned]
    dtype: str
    carry: Callable[[Path], Sequence[str]]
    config: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    stored: Sequence[Stored] = ()
    packing: Packing | None = None
    adapter: None = None

    def planned(self) -> list[Planned]:
        """The tensors as they are to be written, in the dtypes that they have."""
        return [
            planned(name, tensor.array) if isinstance(tensor, Stored) else tensor
            for name, tensor in self.tensors.items()
        ]

    def array(self, name: str) -> np.ndarray:
        """A whole tensor as a view of its file; a ValueError if the layout only streams."""
        tensor = self.tensors[name]
        if not isinstance(tensor, Stored):
            raise ValueError(
                f'{name} of {self.directory} can only be read from its beginning to its end: '
                "convert the model to Hugging Face's layout first."
            )
        return tensor.array

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of our parameters by checkpoint name, padding included."""
        return {name: m.our_shape for name, m in self._maps.items()}

    def dtype_of(self, name: str) -> np.dtype:
        """In which one of our parameters is stored; the widest, where its layers differ."""
        found = np.result_type(*(self.array(n).dtype for n in self._maps[name].their_names))
        return found if found.name in DTYPES or found.kind in 'iu' else DTYPES['float32']

    def read(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of one of our parameters as `dtype`; nothing else is read."""
        m = self._maps[name]
        return m.take([self.array(n) for n in m.their_names], index, dtype)

    @functools.cached_property
    def _maps(self) -> dict[str, TensorMap]:
        entries = families.tensor_maps(self.architecture)
        return {m.ours: m for m in families.packed_maps(entries, self.packing)}


@contextlib.contextmanager
def new_model(
    model: PublishedModel, target: str | Path, tensors: Iterable[Planned], dtype: str
) -> Iterator[tuple[Path, list[Planned]]]:
    """A directory to write a model to, which gets its name when the block ends without an error.

    Args:
        model: Its notes are printed first.
        target: A directory that does not exist yet, or is empty.
        tensors: All that is written, in order.
        dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
    Yields:
        The directory, and the tensors as they are to be written; they show how far the work is.
    Raises:
        ValueError: the target is a file, or not empty, or a number does not fit the dtype.
        OSError: no room, no permission, or the disk is full; nothing is left behind.
    """
    for note in model.notes:
        print(note)
    written = [in_dtype(tensor, DTYPES.get(dtype)) for tensor in tensors]
    size = sum(t.size for t in written)
    with new_directory(target, size) as partial, proven(model.stored):
        yield partial, shown(written, 'Converting')


def match(
    architecture: Architecture, stored: Mapping[str, Stored], packing: Packing | None = None
) -> dict[str, Stored]:
    """Finds every tensor of a model among those of its files, and accounts for all others.

    Args:
        architecture: The model.
        stored: By Hugging Face's names, with or without the family's prefix, or torch's wrappers'.
        packing: As in `PublishedModel`.
    Returns:
        The tensors by their whole names.
    Raises:
        ValueError: a tensor is missing, has another shape, or is left over; it is named with its
            file.
    """
    family = families.of(architecture)
    entries = families.packed_maps(family.tensors(architecture), packing)
    wanted = {name: m for m in entries for name in m.their_names}
    found: dict[str, Stored] = {}
    left: list[Stored] = []
    for name, tensor in stored.items():
        full = whole_name(family, name)
        if full in wanted and full not in found:
            found[full] = tensor
        elif not family.buffers.fullmatch(full.removeprefix(family.prefix)):
            left.append(tensor)
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f'{missing[0]} is missing from {_files(stored.values())}'
            + (f', and {len(missing) - 1} other tensors' if len(missing) > 1 else '')
            + ': the configuration asks for it. Complete the download, or correct config.json.'
        )
    for name, tensor in found.items():
        shape = wanted[name].their_shape
        if tensor.array.shape != shape:
            raise ValueError(
                f'{tensor.place} has shape {list(tensor.array.shape)}, but config.json asks for '
                f'{list(shape)}. Correct config.json, or take the weights that belong to it.'
            )
        integers = INTEGERS.get(name.rpartition('.')[2])
        if tensor.array.dtype != integers if integers else tensor.array.dtype.kind not in 'fV':
            kind = integers or 'floating-point'  # V above: bfloat16
            raise ValueError(
                f'{tensor.place} holds {tensor.array.dtype} numbers where {kind} ones belong. Take '
                'the weights that belong to this config.json.'
            )
    table = found.get(family.embedding)
    for tensor in left:
        if tensor.name != HEAD or not architecture.tied or table is None:
            raise ValueError(
                f'{tensor.place} belongs to no part of a {architecture.family} model with this '
                'config.json: loading the rest would give another model than was saved.'
            )
        # A tied model may store its output table a second time; then both are the same.
        if not same(planned(HEAD, tensor.array), planned(HEAD, table.array)):
            raise ValueError(
                f'{tensor.place} differs from {table.name}, although config.json ties them: set '
                '"tie_word_embeddings": false there if the model has an output table of its own.'
            )
    return found


def whole_name(family: Family, name: str) -> str:
    """A tensor's name with the family's prefix, and without torch's wrappers'."""
    name = WRAPPERS.sub('', name)
    is_head = name.startswith(HEAD.removesuffix('weight'))
    return name if is_head else family.prefix + name.removeprefix(family.prefix)


def _files(tensors: Iterable[Stored]) -> str:
    names = sorted({str(t.file) for t in tensors})
    return names[0] + (f' and {len(names) - 1} other files' if len(names) > 1 else '')
