"""What every published layout offers: a model opened from a directory, and one written to it.

`open(directory)` of a layout gives a `PublishedModel`, whose tensors have Hugging Face's names and
shapes whatever the files have; `write(model, directory)` takes one from any layout. A conversion is
one of them after the other, and nothing but a few blocks of rows is in memory.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.families import Architecture, TensorMap
from belle_jax.files import new_directory
from belle_jax.weights.tensors import DTYPES, Index, Planned, Stored, in_dtype, shown, view


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A model whose files are open: every tensor is known, and no number is read yet.

    It is one of the kinds of `weights.parameters.Parameters`: `read` gives slices of ours, if its
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
    """

    directory: Path
    architecture: Architecture
    tensors: Mapping[str, Stored | Planned]
    dtype: str
    carry: Callable[[Path], Sequence[str]]
    config: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    def planned(self, dtype: str = '') -> list[Planned]:
        """The tensors as they are to be written.

        Args:
            dtype: 'float32', 'bfloat16' or 'float16'; '' leaves every tensor as it is stored.
        """
        planned = [
            view(name, tensor.array) if isinstance(tensor, Stored) else tensor
            for name, tensor in self.tensors.items()
        ]
        return [in_dtype(tensor, DTYPES.get(dtype)) for tensor in planned]

    def array(self, name: str) -> np.ndarray:
        """A whole tensor as a view of its file.

        Raises:
            ValueError: the layout gives its tensors in order alone.
        """
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

    def read(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of one of our parameters as `dtype`; nothing else is read."""
        m = self._maps[name]
        return m.take([self.array(n) for n in m.their_names], index, dtype)

    @functools.cached_property
    def _maps(self) -> dict[str, TensorMap]:
        return {m.ours: m for m in families.tensor_maps(self.architecture)}


@contextlib.contextmanager
def new_model(
    model: PublishedModel, target: str | Path, tensors: Sequence[Planned]
) -> Iterator[tuple[Path, list[Planned]]]:
    """A directory to write a model to, which gets its name when the block ends without an error.

    Args:
        model: Its notes are printed first.
        target: A directory that does not exist yet, or is empty.
        tensors: All that is written, in order.
    Yields:
        The directory, and the tensors, which show how far the work is when they are written.
    Raises:
        ValueError: the target is a file, or not empty.
        OSError: no room, no permission, or the disk is full; nothing is left behind.
    """
    for note in model.notes:
        print(note)
    with new_directory(target, sum(t.size for t in tensors)) as partial:
        yield partial, shown(tensors, 'Converting')
