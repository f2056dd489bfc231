"""What GPTQModel and transformers make of directories; run by a Python that has them, without ours.

    python gptqmodel_side.py quantise WORK    quantises WORK/plain/* as WORK/cases.json says
    python gptqmodel_side.py answer WORK      logits of WORK/{ours,theirs,compressed}/*

Logits are of WORK/tokens.npy, in float32, beside the directories.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {'GPTQMODEL_CPU_WORKERS': '4', 'HF_HUB_OFFLINE': '1', 'CUDA_VISIBLE_DEVICES': ''}

import numpy as np
import torch
import transformers
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import load_file

SIDES = ('ours', 'theirs', 'compressed')


def quantise(work: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 300, 96).tolist() for _ in range(8)]
    data = [{'input_ids': row, 'attention_mask': [1] * len(row)} for row in rows]
    for name, case in json.loads((work / 'cases.json').read_text()).items():
        settings = QuantizeConfig(**case['settings'])
        model = GPTQModel.load(str(work / 'plain' / case['family']), settings, dtype='float16')
        model.quantize(data, batch_size=1)
        model.save(str(work / 'theirs' / name))


def by_gptqmodel(folder: Path) -> torch.nn.Module:
    options = {'device': 'cpu', 'backend': BACKEND.GPTQ_TORCH, 'dtype': torch.float16}
    return GPTQModel.load(str(folder), **options).model


def by_transformers(folder: Path) -> torch.nn.Module:
    options = {'device_map': 'cpu', 'dtype': torch.float16}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options)


def by_compressor(folder: Path) -> torch.nn.Module:
    """Through compressed-tensors itself: transformers 5.24 with 0.20 of it takes no zeros."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    config = json.loads((folder / 'config.json').read_text())
    said = config.pop('quantization_config')
    scheme = QuantizationScheme(**said['config_groups']['group_0'])
    compressor = BaseCompressor.get_value_from_registry(said['format'])
    tensors = load_file(folder / 'model.safetensors')
    for stem in [n.removesuffix('weight_packed') for n in tensors if n.endswith('weight_packed')]:
        names = [n for n in tensors if n.startswith(f'{stem}weight')]
        packed = {n.removeprefix(stem): tensors.pop(n) for n in names}
        packed['weight_scale'] = packed['weight_scale'].float()
        tensors[f'{stem}weight'] = compressor.decompress(packed, scheme)['weight']
    kind = getattr(transformers, config['architectures'][0])
    model = kind(kind.config_class(**config))
    missing, left = model.load_state_dict(tensors, strict=False)
    assert not left and set(missing) <= {'lm_head.weight'}, (missing, left)
    model.tie_weights()
    return model


def answer(work: Path) -> None:
    tokens = torch.from_numpy(np.load(work / 'tokens.npy'))
    for folder in sorted(p for p in work.glob('*/*/') if p.parent.name in SIDES):
        programs = {'gptqmodel': by_gptqmodel, 'transformers': by_transformers}
        if folder.parent.name == 'compressed':
            programs = {'compressor': by_compressor}
            if '-sym' in folder.name:
                programs['transformers'] = by_transformers
        for program, load in programs.items():
            out = folder.with_name(f'{folder.name}.{program}.npy')
            try:
                # As a plain module: transformers forbids it of quantised models, but the weights
                # mean the same, and float16 sums would hide the difference that is looked for.
                model = torch.nn.Module.float(load(folder)).eval()
                with torch.no_grad():
                    np.save(out, model(tokens).logits.float().numpy())
            except Exception as error:
                out.with_suffix('.txt').write_text(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
    {'quantise': quantise, 'answer': answer}[sys.argv[1]](Path(sys.argv[2]))
