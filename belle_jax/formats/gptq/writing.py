"""Quantised models written for other programs, tensor by tensor."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax import __version__, families
from belle_jax.families import HEAD, Packing
from belle_jax.families.packing import INTEGERS
from belle_jax.formats import huggingface
from belle_jax.formats.gptq.reading import COMPRESSED
from belle_jax.formats.gptq.settings import KEY, OWN_CONFIG, VERSIONS
from belle_jax.formats.protocol import PublishedModel, new_model
from belle_jax.json_files import write_json
from belle_jax.weights import bitpacking, torch_files
from belle_jax.weights.tensors import DTYPES, Planned, in_dtype, planned

THEIRS = {ours: theirs for theirs, ours in COMPRESSED.items()}

FORMATS = (*VERSIONS, 'compressed_tensors', 'belle_pt')


def write(
    model: PublishedModel,
    target: str | Path,
    layout: str = 'gptq',
    dtype: str = '',
    max_shard_size: int = 5 * 10**9,
    meta: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a quantised model; the directory appears when it is complete.

    Args:
        model: With a `packing`.
        target: A new directory, or an empty one; returned when it is complete.
        layout: Of `FORMATS`: 'gptq' (version 1) and 'gptq_v2' for GPTQModel, transformers and
            vLLM; 'compressed_tensors'; 'belle_pt', which is a bare file beside the `config.json`.
        dtype: Of what is not quantised; '' leaves it as it is.
        max_shard_size: Bytes of a weight file.
        meta: What made it, for the settings of GPTQ.
    Raises:
        ValueError: the layout cannot hold the model, or as in `protocol.new_model`.
        OSError: no room, no permission, or the disk is full; nothing is left behind.
    """
    tensors = exported(model, layout, dtype)
    packing: Any = model.packing
    notes = [*model.notes, *_notes(packing, layout)]
    dtype = dtype or model.dtype
    base: Any = model.config or huggingface.architecture_to_hf_config(model.architecture, dtype)
    if layout == 'belle_pt':
        model = dataclasses.replace(model, notes=notes)
        with new_model(model, target, tensors, '') as (partial, written):
            name = f'{packing.bits}bit' + f'-{packing.group_size}g' * bool(packing.group_size)
            torch_files.write(partial / f'{name}.pt', written)
            write_json(partial / 'config.json', base)
            model.carry(partial)
        return Path(target)
    compressed = layout == 'compressed_tensors'
    said = _compressed(model) if compressed else _gptq(model, layout, meta or {})

    def carry(partial: Path) -> Sequence[str]:
        if not compressed:
            write_json(partial / OWN_CONFIG, said)
        return model.carry(partial)

    out = dataclasses.replace(
        model,
        tensors={t.name: t for t in tensors},
        config={**base, KEY: said},
        packing=None,
        carry=carry,
        dtype=dtype,
        notes=notes,
    )
    return huggingface.write(out, target, '', max_shard_size)


def exported(model: PublishedModel, layout: str, dtype: str = '') -> list[Planned]:
    """The tensors of files, larger dtypes first, so that all are aligned; arguments as `write`'s.

    Their sizes are known before a number is.
    """
    packing = model.packing
    if layout not in FORMATS or dtype not in ('', *DTYPES) or packing is None:
        raise ValueError(
            f'--format={layout!r} --dtype={dtype!r}: the formats of quantised models are '
            f'{", ".join(FORMATS)}, the dtypes {", ".join(DTYPES)}.'
        )
    if layout == 'belle_pt' and (packing.act_order or packing.tables):
        raise ValueError(
            f'--format={layout} has no place for '
            f'{"an order of inputs" if packing.act_order else "quantised tables"}: quantise '
            f'without {"--act_order" if packing.act_order else "--table_bits"}, or choose '
            '--format=gptq.'
        )
    given = {tensor.name: tensor for tensor in model.planned()}
    shapes = {
        name.removesuffix('weight'): (entry.their_shape, bool(entry.padded))
        for entry in families.tensor_maps(model.architecture)
        for name in entry.their_names
    }
    out: list[Planned] = []
    for name, tensor in given.items():
        end = name.rpartition('.')[2]
        if end == 'qweight':
            stem = name.removesuffix(end)
            shape, is_table = shapes[stem]
            own = packing.of_tables() if is_table else packing
            out += _matrix(stem, shape, given, own, layout)
        elif end not in (*INTEGERS, 'scales'):
            out.append(in_dtype(tensor, DTYPES.get(dtype)))
    return sorted(out, key=lambda t: -t.dtype.itemsize)


def _matrix(
    stem: str,
    shape: tuple[int, ...],
    given: Mapping[str, Planned],
    packing: Packing,
    layout: str,
) -> Iterator[Planned]:
    """The tensors of a quantised matrix [N, K] as a file has them, from those of ours."""
    outputs, inputs = shape
    count, bits = packing.groups(inputs), packing.bits
    packed, scales = given[f'{stem}qweight'], given[f'{stem}scales']
    yield _out(packed, layout, (bitpacking.packed_size(inputs, bits), outputs), _whole)
    if layout == 'belle_pt':
        scales = in_dtype(scales, DTYPES['float32'])
        if f'{stem}bias' not in given:
            yield _filled(f'{stem}bias', (outputs,), np.float32(0))
    yield _out(scales, layout, scales.shape, _whole)
    zeros = given.get(f'{stem}qzeros')
    if zeros is None:
        zeros = _filled(f'{stem}qzeros', (count, outputs), np.uint8(2 ** (bits - 1)))
    if not (packing.symmetric and layout == 'compressed_tensors'):
        version = VERSIONS.get(layout, 2 if layout == 'compressed_tensors' else 1)
        pack = functools.partial(_pack_zeros, f'{stem}qzeros', bits, version)
        width = bitpacking.packed_size(outputs, bits)
        yield _out(zeros, layout, (count, width), lambda block: pack(block)[:, :width])
    if packing.act_order:
        yield _out(given[f'{stem}g_idx'], layout, (inputs,), _whole)
    elif layout in VERSIONS:
        order = np.arange(inputs) // (packing.group_size or inputs)
        yield planned(f'{stem}g_idx', order.astype(np.int32))
    if layout == 'compressed_tensors':
        yield planned(f'{stem}weight_shape', np.array(shape, np.int64))


def _out(
    tensor: Planned,
    layout: str,
    shape: tuple[int, ...],
    made: Callable[[np.ndarray], np.ndarray],
) -> Planned:
    """A tensor as the layout names and turns it, of blocks that `made` gives; rows beyond its shape
    are left out.
    """

    def blocks() -> Iterator[np.ndarray]:
        left = shape[0]
        for block in tensor.blocks():
            yield made(block[:left])
            left -= len(block[:left])

    def turned() -> Iterator[np.ndarray]:
        yield np.concatenate(list(blocks())).T

    dtype = np.dtype(np.int32) if tensor.dtype == np.uint8 else tensor.dtype
    if layout != 'compressed_tensors':
        return Planned(tensor.name, shape, dtype, blocks)
    stem, _, end = tensor.name.rpartition('.')
    return Planned(f'{stem}.{THEIRS[end]}', shape[::-1], dtype, turned)


def _whole(block: np.ndarray) -> np.ndarray:
    return block


def _pack_zeros(name: str, bits: int, version: int, zeros: np.ndarray) -> np.ndarray:
    """int32 [G, W] of uint8 [G, N], as a version of the format has it."""
    if version == 1 and not zeros.all():
        raise ValueError(
            f'{name} has a zero point of 0, which version 1 of the format, as --format=gptq and '
            'belle_pt write it, cannot hold. Choose --format=gptq_v2.'
        )
    return bitpacking.pack((zeros - np.uint8(version == 1)).T, bits).T


def _filled(name: str, shape: tuple[int, ...], value: np.generic) -> Planned:
    return Planned(name, shape, value.dtype, lambda: iter([np.full(shape, value)]))


# --- settings -------------------------------------------------------------------------------------


def _gptq(model: PublishedModel, layout: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a GPTQ checkpoint, under the names of now and of before."""
    packing: Any = model.packing
    said = {
        'bits': packing.bits,
        'group_size': packing.group_size or -1,
        'desc_act': packing.act_order,
        'sym': packing.symmetric,
        'lm_head': bool(packing.tables) and not model.architecture.tied,
        'quant_method': 'gptq',
        'method': 'gptq',
        'checkpoint_format': layout,
        'format': layout,
        'pack_dtype': 'int32',
        'meta': {'quantizer': [f'belle_jax:{__version__}'], **meta},
    }
    if packing.tables not in (0, packing.bits):
        said['dynamic'] = {HEAD.removesuffix('.weight'): {'bits': packing.tables, 'sym': True}}
    return said


def _compressed(model: PublishedModel) -> dict[str, Any]:
    """The settings of compressed-tensors."""
    packing: Any = model.packing
    embedding = families.of(model.architecture).embedding.removesuffix('.weight')
    head = HEAD.removesuffix('.weight')
    tables = [head] if not model.architecture.tied else []
    tables += [embedding] if packing.embedding else []

    def group(
        targets: Sequence[str], bits: int, symmetric: bool, act_order: bool
    ) -> dict[str, Any]:
        weights = {
            'num_bits': bits,
            'type': 'int',
            'symmetric': symmetric,
            'strategy': 'group' if packing.group_size else 'channel',
            'group_size': packing.group_size or None,
            'actorder': 'group' if act_order else None,
            'dynamic': False,
        }
        return {'targets': targets, 'weights': weights, 'format': 'pack-quantized'}

    groups = {'group_0': group(['Linear'], packing.bits, packing.symmetric, packing.act_order)}
    if packing.tables:
        groups['group_1'] = group(tables, packing.tables, True, False)
    return {
        'quant_method': 'compressed-tensors',
        'format': 'pack-quantized',
        'quantization_status': 'compressed',
        'config_groups': groups,
        'ignore': [] if packing.tables else [head],
    }


def _notes(packing: Packing, layout: str) -> list[str]:
    """What other programs do not read of a file, or read wrongly."""
    notes = []
    if packing.tables and layout in VERSIONS:
        notes.append(
            'The embedding is quantised, for which GPTQ checkpoints have no form: Belle-JAX alone '
            'reads it.'
            if packing.embedding
            else 'The output table is quantised: GPTQModel reads it, transformers (5.24) does not.'
        )
    if layout == 'gptq' and not packing.symmetric:
        notes.append(
            'Zero points differ: GPTQModel takes version 1 of such files from itself alone. '
            '--format=gptq_v2 is for it.'
        )
    return notes
