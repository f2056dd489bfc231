"""From the tensors of quantised files to those of `families.packed_maps`, and to the packing.

What a model is, is judged by its tensors, not by what its settings claim: bits by the words, order
by `g_idx`, symmetry by the zeros. Nothing is unpacked but zeros, where they are needed.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from belle_jax import families
from belle_jax.families import HEAD, Architecture, Packing
from belle_jax.families.packing import groups, is_matrix
from belle_jax.formats.gptq import matrix
from belle_jax.formats.gptq.matrix import PARTS, Matrix
from belle_jax.formats.gptq.settings import FileSettings
from belle_jax.formats.protocol import whole_name
from belle_jax.weights.tensors import Stored

COMPRESSED = {
    'weight_packed': 'qweight',
    'weight_zero_point': 'qzeros',
    'weight_scale': 'scales',
    'weight_g_idx': 'g_idx',
    'weight_shape': 'shape',
}
"""compressed-tensors' names for the same, each transposed."""


def translate(
    architecture: Architecture, stored: Mapping[str, Stored], settings: FileSettings
) -> tuple[dict[str, Stored], Architecture, Packing]:
    """The tensors of a model in our notation.

    Args:
        architecture: As the configuration says.
        stored: Those of the files.
        settings: How they are to be read.
    Returns:
        The tensors by their whole names, for `match`; the architecture with the biases that the
        tensors have; the packing.
    Raises:
        ValueError: a tensor is missing, has another shape or type, or means something that is not
            read here; it is named with its file.
    """
    family = families.of(architecture)
    tensors = {whole_name(family, name): tensor for name, tensor in stored.items()}
    if settings.compressed:
        tensors = _as_gptq(tensors)
    layers, tables = _matrices(architecture, tensors, settings)
    size = settings.group_size
    if size is None:
        size = _group_size([*layers, *tables])
    for one in (*layers, *tables):
        one.check(size)
    parts = {one.stem + end for one in (*layers, *tables) for end in PARTS}
    made = {name: tensor for name, tensor in tensors.items() if name not in parts}
    plain = len({t.bits for t in tables}) == 1
    plain = plain and all(t.is_symmetric() and t.is_ordered(size) for t in tables)
    packing = Packing(
        bits=layers[0].bits,
        group_size=size,
        symmetric=all(one.is_symmetric() for one in layers),
        act_order=not all(one.is_ordered(size) for one in layers),
        tables=tables[0].bits if plain else 0,
        embedding=not plain or any(f'{t.stem}weight' != HEAD for t in tables),
    )
    for one in layers:
        made |= one.canonical(packing)
    for table in tables:
        if plain:
            made |= table.canonical(packing.of_tables())
        else:  # tables are kept packed in one way alone
            name = f'{table.stem}weight'
            made[name] = Stored(name, table.parts['qweight'].file, table.weight(size))
    return *_biases(made, architecture), packing


def _as_gptq(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Names and layouts of GPTQ for those of compressed-tensors."""
    out = {}
    for name, tensor in tensors.items():
        stem, _, end = name.rpartition('.')
        if end in COMPRESSED:
            name = f'{stem}.{COMPRESSED[end]}'
            tensor = dataclasses.replace(tensor, array=tensor.array.T)
        out[name] = tensor
    return out


def _matrices(
    architecture: Architecture, tensors: Mapping[str, Stored], settings: FileSettings
) -> tuple[list[Matrix], list[Matrix]]:
    """The quantised matrices of layers, which all must be, and tables."""
    layers, tables = [], []
    for entry in families.tensor_maps(architecture):
        if not is_matrix(entry) and not entry.padded:
            continue
        for name in entry.their_names:
            found = matrix.find(entry, name, tensors, settings)
            if found:
                (layers if entry.layers else tables).append(found)
            elif entry.layers:
                kept = tensors.get(name)
                raise ValueError(
                    f'{kept.place} is not quantised: here all matrices of the layers are, with the '
                    'same bits, or none.'
                    if kept
                    else f'{name.removesuffix("weight")}qweight is missing from '
                    f'{next(iter(tensors.values())).file.parent}. Complete the download.'
                )
    if other := [one for one in layers if one.bits != layers[0].bits]:
        raise ValueError(
            f'{other[0].parts["qweight"].place} has {other[0].bits} bits, {layers[0].stem[:-1]} '
            f'has {layers[0].bits}: here all matrices of the layers have the same.'
        )
    return layers, tables


def _group_size(matrices: Sequence[Matrix]) -> int:
    """Inputs of a group, from how many groups there are of how many inputs; 0: there is one.

    Where several sizes fit, the power of two among them is meant.
    """
    if all(one.group_count == 1 for one in matrices):
        return 0
    # ceil(inputs / size) = groups, for each of them
    least = max(groups(one.inputs, one.group_count) for one in matrices)
    fewer = [(one.inputs, one.group_count - 1) for one in matrices if one.group_count > 1]
    most = min(-(-inputs // count) - 1 for inputs, count in fewer)
    power = 1 << (most.bit_length() - 1) if most > 0 else 0
    return power if least <= power <= most else max(least, 1)


def _biases(
    tensors: Mapping[str, Stored], architecture: Architecture
) -> tuple[dict[str, Stored], Architecture]:
    """Without the biases of zeros that programs write where there are none; others are the model's.

    GPTQ-for-LLaMa and AutoGPTQ give every quantised matrix one.
    """
    head = f'{HEAD.removesuffix("weight")}bias'
    empty = {name for name in (head,) if name in tensors and not tensors[name].array.any()}
    for field in ('attention_bias', 'mlp_bias'):
        biased = dataclasses.replace(architecture, **{field: True})
        before, after = (
            {name for entry in families.tensor_maps(a) for name in entry.their_names}
            for a in (architecture, biased)
        )
        added = {name for name in after - before if name in tensors}
        if any(tensors[name].array.any() for name in added):
            architecture = biased
        else:
            empty |= added
    return {name: t for name, t in tensors.items() if name not in empty}, architecture
