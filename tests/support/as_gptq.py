"""Quantised models as other programs write them, packed bit by bit from the formats' descriptions.

Nothing here comes from the code under test: codes become bits, bits become words.
"""
# pyright: reportArgumentType=false

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import tiny
from belle_jax import families
from belle_jax.config import Architecture
from belle_jax.families import HEAD
from belle_jax.formats import huggingface

LLAMA = dataclasses.replace(
    tiny.LLAMA, embed=128, q_heads=4, kv_heads=2, head_dim=32, mlp=192, layers=2,
    attention_bias=False, mlp_bias=False, init_std=0.2, max_position=256, bos_id=1, eos_ids=(2,),
)  # fmt: skip
BLOOM = dataclasses.replace(
    tiny.BLOOM, embed=64, q_heads=4, mlp=256, layers=2, init_std=0.2, bos_id=1, eos_ids=(2,)
)
FAMILIES = {'llama': LLAMA, 'bloom': BLOOM}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is quantised and published."""

    bits: int = 4
    group: int = 32  # -1: one group
    symmetric: bool = True
    act_order: bool = False
    version: int = 1
    g_idx: bool = True
    scales: str = 'float16'
    biases: bool = False  # of zeros, where there is none
    head_bits: int = 0


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """int32 [ceil(K·bits/32), ...] of whole numbers [K, ...]: a string of bits for each column."""
    flat = codes.reshape(len(codes), -1).astype(np.uint64)
    string = [(flat[:, None] >> np.uint64(bit)) & np.uint64(1) for bit in range(bits)]
    string = np.concatenate(string, axis=1).reshape(len(codes) * bits, -1).astype(np.uint8)
    string = np.pad(string, ((0, -len(string) % 32), (0, 0)))
    packed = np.packbits(string, axis=0, bitorder='little')  # [bytes, N]
    four = packed.reshape(-1, 4, packed.shape[1]).astype(np.uint32)
    whole = np.bitwise_or.reduce([four[:, i] << np.uint32(8 * i) for i in range(4)])
    return whole.view(np.int32).reshape(-1, *codes.shape[1:])


@dataclasses.dataclass
class Quantised:
    """A matrix [N, K] in codes."""

    codes: np.ndarray  # [K, N]
    scales: np.ndarray  # [G, N]
    zeros: np.ndarray  # [G, N], true ones
    groups: np.ndarray  # [K]

    @property
    def weight(self) -> np.ndarray:
        """[N, K] float32."""
        scales = self.scales.astype(np.float32)[self.groups]
        weight = scales * (self.codes - self.zeros[self.groups]).astype(np.float32)
        return np.ascontiguousarray(weight.T)


def quantise(weight: np.ndarray, plan: Plan, rng: np.random.Generator) -> Quantised:
    """By rounding, with zeros from 1, as version 1 of the format needs."""
    inputs = weight.shape[1]
    size = inputs if plan.group == -1 else plan.group
    count, top, half = -(-inputs // size), 2**plan.bits - 1, 2 ** (plan.bits - 1)
    groups = np.arange(inputs) // size
    if plan.act_order:
        groups = rng.permutation(groups)
    scales = np.empty((count, len(weight)), plan.scales)
    zeros = np.full((count, len(weight)), half)
    for group in range(count):
        part = weight[:, groups == group]
        low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        reach = 2 * np.maximum(-low, high) if plan.symmetric else high - low
        scales[group] = reach / top + 1e-4
        if plan.symmetric:  # some have the code more above zero, not below
            scales[group, ::3] *= -1
        if not plan.symmetric:
            zeros[group] = np.clip(np.round(-low / scales[group].astype(np.float32)), 1, top)
    rounded = np.round(weight.T / scales.astype(np.float32)[groups]) + zeros[groups]
    return Quantised(np.clip(rounded, 0, top).astype(int), scales, zeros, groups)


def tensors(
    architecture: Architecture, plan: Plan, seed: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A random model as its file has it, and as floating-point numbers of the same meaning."""
    rng = np.random.default_rng(seed)
    arrays = {k: np.asarray(v) for k, v in tiny.params(architecture, seed).items()}
    packed, plain = {}, {}
    for entry in families.tensor_maps(architecture):
        for layer, name in enumerate(entry.their_names):
            array = entry.give(arrays[entry.ours].__getitem__, layer, 0, entry.fold[0])
            is_head = name == HEAD and plan.head_bits
            if not is_head and not (entry.layers and entry.inputs):
                packed[name] = array.astype(plan.scales)
                plain[name] = packed[name].astype(np.float32)
                continue
            own = dataclasses.replace(plan, bits=plan.head_bits) if is_head else plan
            made = quantise(array, own, rng)
            plain[name] = made.weight
            stem = name.removesuffix('weight')
            packed[f'{stem}qweight'] = words(made.codes, own.bits)
            packed[f'{stem}scales'] = made.scales
            packed[f'{stem}qzeros'] = words(made.zeros.T - (plan.version == 1), own.bits).T.copy()
            if plan.g_idx:
                packed[f'{stem}g_idx'] = made.groups.astype(np.int32)
            if plan.biases:
                packed.setdefault(f'{stem}bias', np.zeros(len(array), plan.scales))
    return packed, plain


def settings(plan: Plan) -> dict:
    """The `quantization_config` of a plan."""
    return {
        'quant_method': 'gptq',
        'bits': plan.bits,
        'group_size': plan.group,
        'desc_act': plan.act_order,
        'sym': plan.symmetric,
        'lm_head': bool(plan.head_bits),
        'checkpoint_format': 'gptq' if plan.version == 1 else 'gptq_v2',
        'meta': {'quantizer': ['nobody:1']},
    }


def as_compressed(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """compressed-tensors' `pack-quantized` of a version 2 of GPTQ: the same words, transposed."""
    names = {'qweight': 'weight_packed', 'qzeros': 'weight_zero_point', 'scales': 'weight_scale'}
    names |= {'g_idx': 'weight_g_idx'}
    return {
        '.'.join([stem, names.get(end, end)]): np.ascontiguousarray(a.T) if end in names else a
        for (stem, _, end), a in ((n.rpartition('.'), a) for n, a in packed.items())
    }


def compressed_settings(plan: Plan) -> dict:
    """The `quantization_config` of a plan as compressed-tensors writes it."""
    weights = {
        'num_bits': plan.bits,
        'type': 'int',
        'symmetric': plan.symmetric,
        'strategy': 'channel' if plan.group == -1 else 'group',
        'group_size': None if plan.group == -1 else plan.group,
        'actorder': 'group' if plan.act_order else None,
    }
    return {
        'quant_method': 'compressed-tensors',
        'format': 'pack-quantized',
        'quantization_status': 'compressed',
        'config_groups': {'group_0': {'targets': ['Linear'], 'weights': weights}},
        'ignore': ['lm_head'],
    }


def write(folder: Path, architecture: Architecture, weights: dict, extra: dict) -> Path:
    """A directory with a tokenizer of bytes, these weights, and a config.json with `extra`."""
    folder.mkdir(parents=True)
    tiny.write_tokenizer(folder)
    config = huggingface.architecture_to_hf_config(architecture, 'float16') | extra
    (folder / 'config.json').write_text(json.dumps(config))
    if weights:
        save_file(weights, folder / 'model.safetensors', {'format': 'pt'})
    return folder


def belle(folder: Path, architecture: Architecture, plan: Plan, twice: bool = False) -> Path:
    """A bare file in BELLE's layout in a base's directory, which is returned; 'pt' or safetensors.

    A tied embedding is there once, or a second time as the output table.
    """
    import torch

    packed, plain = tensors(architecture, plan)
    if twice:
        packed[HEAD] = packed[families.of(architecture).embedding]
    write(folder, architecture, {}, {})
    torch.save({n: torch.from_numpy(a.copy()) for n, a in packed.items()}, folder / 'weights.pt')
    save_file({n: a.copy() for n, a in packed.items()}, folder / 'weights.safetensors')
    write(folder / 'plain', architecture, plain, {})
    return folder


BELLE = {'symmetric': False, 'g_idx': False, 'biases': True, 'scales': 'float32'}
"""What is BELLE's own in a plan."""


def publish(folder: Path, architecture: Architecture, plan: Plan) -> tuple[Path, Path]:
    """A quantised directory, and one of the same model in float32."""
    packed, plain = tensors(architecture, plan)
    extra = {'quantization_config': settings(plan)}
    quantised = write(folder / 'quantised', architecture, packed, extra)
    return quantised, write(folder / 'plain', architecture, plain, {})
