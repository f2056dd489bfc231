"""A quantised model as `formats.gptq` writes it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from belle_jax import families
from belle_jax.families import Packing, TensorMap
from belle_jax.formats.protocol import PublishedModel
from belle_jax.quantization.layer import kernels
from belle_jax.quantization.store import Store
from belle_jax.quantization.tables import Table
from belle_jax.runs.parameters import Parameters
from belle_jax.weights.tensors import Planned, planned

ROWS = 8192  # of a table at a time


def exported(
    published: PublishedModel,
    source: Parameters,
    store: Store,
    packing: Packing,
    tables: Mapping[str, Table],
) -> PublishedModel:
    """The model that layers on disk are, in the order of its published tensors.

    Args:
        published: The model as it was, for its small files and settings.
        source: Its parameters as they were quantised, turned or not.
        store: The layers.
        packing: How they are quantised.
        tables: Those that are, by parameter.
    """
    architecture = source.architecture
    config = published.config
    if config is not None and architecture != published.architecture:
        config = {**config, 'tie_word_embeddings': architecture.tied}
    layers = [store.tensors(number) for number in range(architecture.layers)]
    products = {entry.ours: name for name, entry in kernels(architecture).items()}
    tensors: list[Planned] = []
    for entry, layer in families.in_published_order(architecture):
        name = entry.their_names[layer]
        if product := products.get(entry.ours):
            parts = {n: stored.array for n, stored in layers[layer].items()}
            tensors += _matrix(name.removesuffix('weight'), product, parts, packing)
        elif table := tables.get(entry.ours):
            stem = name.removesuffix('weight')
            tensors += [
                planned(f'{stem}qweight', table.words),
                planned(f'{stem}scales', table.scales),
            ]
        elif entry.layers:
            array = layers[layer][entry.ours.removeprefix('blocks.0.')].array
            tensors.append(planned(name, array.reshape(entry.their_shape)))
        else:
            tensors.append(_planned(source, entry))
    return dataclasses.replace(
        published,
        architecture=architecture,
        tensors={tensor.name: tensor for tensor in tensors},
        config=config,
        packing=packing,
    )


def _matrix(stem: str, name: str, arrays: Mapping[str, Any], packing: Packing) -> Iterator[Planned]:
    yield planned(f'{stem}qweight', arrays[f'{name}.words'])
    yield planned(f'{stem}scales', arrays[f'{name}.scales'].astype(np.float16))
    if not packing.symmetric:
        yield planned(f'{stem}qzeros', arrays[f'{name}.zeros'])
    if packing.act_order:
        yield planned(f'{stem}g_idx', arrays[f'{name}.groups'])


def _planned(source: Parameters, entry: TensorMap) -> Planned:
    """A tensor outside of layers, by blocks of rows."""
    count, dtype = entry.fold[0], source.dtype_of(entry.ours)

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, count, ROWS):
            stop = min(start + ROWS, count)
            yield entry.give(lambda index: source.read(entry.ours, index, dtype), 0, start, stop)

    return Planned(entry.their_names[0], entry.their_shape, dtype, blocks)
