"""Tensors by Hugging Face's names, all of them accounted for."""

from collections.abc import Iterable, Mapping

from belle_jax import families
from belle_jax.families import HEAD, Architecture
from belle_jax.weights.tensors import Stored


def match(architecture: Architecture, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Finds every tensor of a model among those of its files, and accounts for all others.

    Args:
        architecture: The model.
        stored: The files' tensors by name, with or without the family's prefix.
    Returns:
        The tensors by their whole names.
    Raises:
        ValueError: a tensor is missing, has another shape, or is left over; it is named with its
            file.
    """
    family = families.of(architecture)
    wanted = {name: m for m in family.tensors(architecture) for name in m.their_names}
    found: dict[str, Stored] = {}
    left: list[Stored] = []
    for name, tensor in stored.items():
        bare = name.removeprefix(family.prefix)
        full = name if name == HEAD else family.prefix + bare
        if full in wanted and full not in found:
            found[full] = tensor
        elif not family.buffers.fullmatch(bare):
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
        if tensor.array.dtype.kind not in 'fV':  # V: bfloat16
            raise ValueError(
                f'{tensor.place} holds {tensor.array.dtype} numbers, not floating-point weights: '
                'quantised models are not read here.'
            )
    for tensor in left:
        if tensor.name == HEAD and architecture.tied:
            _check_tied(tensor, found[family.embedding])
        else:
            raise ValueError(
                f'{tensor.place} belongs to no part of a {architecture.family} model with this '
                'config.json: loading the rest would give another model than was saved.'
            )
    return found


def _check_tied(head: Stored, table: Stored) -> None:
    """A tied model may store its output table a second time; then both are the same."""
    same = head.array.shape == table.array.shape and head.array.dtype == table.array.dtype
    rows = 4096  # compared in blocks: two tables of 250,880 rows are gigabytes
    for start in range(0, len(table.array) if same else 0, rows):
        block = slice(start, start + rows)
        # As bytes: a NaN equals itself.
        same = same and head.array[block].tobytes() == table.array[block].tobytes()
    if not same:
        raise ValueError(
            f'{head.place} differs from {table.name}, although config.json ties them: set '
            '"tie_word_embeddings": false there if the model has an output table of its own.'
        )


def _files(tensors: Iterable[Stored]) -> str:
    names = sorted({str(t.file) for t in tensors})
    return names[0] + (f' and {len(names) - 1} other files' if len(names) > 1 else '')
