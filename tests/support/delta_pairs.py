"""Small fine-tuned pairs, written and read by other programs, and what every refusal keeps."""

import json
from pathlib import Path

import pytest

from belle_jax.diffs.delta import apply, applying

torch = pytest.importorskip('torch')
safetensors_torch = pytest.importorskip('safetensors.torch')

DTYPES = {'F16': torch.float16, 'BF16': torch.bfloat16, 'F32': torch.float32, 'I64': torch.int64}
VOCABULARY = b'a vocabulary that is no settings file ' * 2000


def normal(*shape, seed=0, dtype=torch.float32):
    return (0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def tuned_of(tensors, dtype=torch.bfloat16, scale=1e-4) -> dict:
    """What training makes of tensors: a little noise."""
    return {
        name: (t.float() + scale * normal(*t.shape, seed=i + 100) / 0.02).to(dtype)
        for i, (name, t) in enumerate(tensors.items())
    }


def save(directory: Path, tensors: dict, kind: str = 'safetensors', parts: int = 1) -> Path:
    """A model directory as other programs write it."""
    directory.mkdir(parents=True)
    stem = {'safetensors': 'model', 'bin': 'pytorch_model'}[kind]
    names, weight_map = list(tensors), {}
    for part in range(parts):
        file = f'{stem}-{part + 1}.{kind}' if parts > 1 else f'{stem}.{kind}'
        some = {name: tensors[name] for name in names[part::parts]}
        if kind == 'bin':
            torch.save(some, directory / file)
        else:
            safetensors_torch.save_file(
                {n: t.contiguous() for n, t in some.items()}, directory / file
            )
        weight_map |= dict.fromkeys(some, file)
    if parts > 1:
        text = json.dumps({'metadata': {}, 'weight_map': weight_map})
        (directory / f'{stem}.{kind}.index.json').write_text(text)
    (directory / 'config.json').write_text('{"model_type": "llama"}')
    return directory


def load(directory: Path) -> dict:
    """A model directory as other programs read it."""
    tensors = {}
    for file in directory.glob('*.safetensors'):
        tensors |= safetensors_torch.load_file(file)
    for file in directory.glob('*.bin'):
        tensors |= torch.load(file, weights_only=True)
    return tensors


def raw(tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check_equal(directory: Path, expected: dict) -> None:
    found = load(directory)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert raw(found[name]) == raw(tensor), name


LLAMA = {
    'model.embed_tokens.weight': normal(50, 24, seed=1),
    'model.layers.0.self_attn.q_proj.weight': normal(24, 24, seed=2),
    'model.layers.0.mlp.up_proj.weight': normal(70, 24, seed=3),
    'model.norm.weight': torch.ones(24),
    'lm_head.weight': normal(50, 24, seed=4),
}


def pair(folder: Path, dtype=torch.bfloat16, **options) -> tuple[Path, Path, dict]:
    """A small fine-tuned pair, float16 and another dtype; both directories, the tuned tensors."""
    tensors = {name: t.to(torch.float16) for name, t in LLAMA.items()}
    base, tuned = folder / 'base', tuned_of(tensors, dtype)
    positions = torch.arange(700)
    save(base, tensors | {'positions': positions})
    tuned['positions'] = positions * 3
    (base / 'tokenizer.model').write_bytes(VOCABULARY)
    directory = save(folder / 'tuned', tuned, **options)
    (directory / 'tokenizer.model').write_bytes(VOCABULARY)
    return base, directory, tuned


def refuses(folder: Path, base: Path, message: str, delta: str = 'delta') -> None:
    """Applying fails with one sentence, before a target was even begun."""
    before = sorted(folder.rglob('*'))
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ValueError, match=message) as error,
    ):
        patch.setattr(applying, 'new_directory', None)
        apply(base, folder / delta, folder / 'never')
    assert '\n' not in str(error.value)
    assert sorted(folder.rglob('*')) == before
