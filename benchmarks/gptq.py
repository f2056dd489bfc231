"""What quantising costs in perplexity and in time, by option, and beside GPTQModel.

    python -m benchmarks.gptq [--models=runs/small] [--peer=PYTHON] [--output=gptq.json]

On the models of benchmarks.small_models. All quantisations of a family read the same windows of
what it was trained on, and are measured on the same windows: of held-out chapters, of WikiText-2's
test split: the geometric mean of the two perplexities. --peer names a Python that has gptqmodel (in
an environment of its own), which then quantises the same at its own defaults, in turns with ours;
what it writes is measured by our loader. Times are those of quantising alone; ours include what is
measured on, and the first of a family compilation.
"""

import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

MODELS = flags.DEFINE_string('models', 'runs/small', 'What benchmarks.small_models made.')
SHARED = flags.DEFINE_string('shared', '../shared', 'Folder of the shared test files.')
FAMILIES = flags.DEFINE_multi_enum('family', ['llama', 'bloom'], ['llama', 'bloom'], 'Which.')
PARTS = flags.DEFINE_multi_enum(
    'part', ['grid', 'options', 'peer'], ['grid', 'options', 'peer'], 'Which tables.'
)
PEER = flags.DEFINE_string('peer', '', 'A Python that has gptqmodel; without one it is left out.')
SAMPLES = flags.DEFINE_integer('samples', 128, 'Of calibration, of 512 tokens.')
WINDOWS = flags.DEFINE_integer('windows', 48, 'Of each text that is measured on.')
OUTPUT = flags.DEFINE_string('output', None, 'JSON file; by default only printed.')

SEQ_LEN = 512
OPTIONS: dict[str, dict[str, Any]] = {
    'plain': {},
    'order': {'order': 'groups'},
    'act_order': {'order': 'activations'},
    'sequential': {'sequential': True},
    'clip': {'shrinks': 20},
    'propagate 0.5': {'propagate': 0.5},
    'propagate 1': {'propagate': 1.0},
    'nosym': {'symmetric': False},
    'rotate': {'rotate': True},
    'tune': {'tune': 4},
}
BEST: dict[str, Any] = {'order': 'groups', 'sequential': True, 'shrinks': 20, 'propagate': 0.5}


def main(_: list[str]) -> None:
    """Measures, and prints a line for each quantisation."""
    rows = []
    for family in FAMILIES.value:
        model = Path(MODELS.value) / family
        text = windows(model)
        for row in measured(family, model, text):
            rows.append(row)
            print(json.dumps(row), flush=True)
            if OUTPUT.value:
                Path(OUTPUT.value).write_text(json.dumps(rows, indent=1) + '\n', 'utf-8')


def measured(family: str, model: Path, text: Any) -> Iterator[dict[str, Any]]:
    """All quantisations of one model."""
    start = {'family': family}
    if 'grid' in PARTS.value:
        for bits, group_size in itertools.product((8, 4, 3, 2), (128, 64, 32, -1)):
            yield start | ours(model, text, 'rounding', bits, group_size, rounding=True)
            yield start | ours(model, text, 'default', bits, group_size, **BEST)
    if 'options' in PARTS.value:
        for bits, (name, option) in itertools.product((4, 3, 2), OPTIONS.items()):
            yield start | ours(model, text, name, bits, 128, **option)
        for bits in (3, 2):
            yield start | ours(model, text, 'default, tune', bits, 128, **BEST, tune=4)
            yield start | ours(model, text, 'default, nosym', bits, 128, **BEST, symmetric=False)
        if family == 'llama':
            for bits in (4, 3):
                yield start | ours(model, text, 'default, rotate', bits, -1, **BEST, rotate=True)
    if 'peer' in PARTS.value and PEER.value:
        for bits, group_size in ((4, 128), (3, 128), (2, 128), (4, -1), (3, -1)):
            yield start | theirs(model, text, bits, group_size)


def windows(model: Path) -> Any:
    """What is read, and what is measured on: half of it Chinese, half English."""
    from belle_jax.data import marked_text, tokenizer
    from belle_jax.quantization.calibration import Calibration

    words, shared = tokenizer.load(model), Path(SHARED.value) / 'data' / 'text'
    rng = np.random.default_rng(0)

    def tokens(text: str) -> np.ndarray:
        return np.asarray(marked_text.encode(words, text), np.int32)

    held = (model.parent / 'heldout_zh.txt').read_text('utf-8')
    novel = (shared / 'xiyouji.txt').read_text('utf-8')
    assert novel.endswith(held), 'the held-out chapters are not the last ones'
    read = []
    for text in (novel[: -len(held)], (shared / 'wikitext2_valid.txt').read_text('utf-8')):
        found = tokens(text)
        for start in rng.integers(0, len(found) - SEQ_LEN, SAMPLES.value // 2):
            read.append(found[start : start + SEQ_LEN])
    measured = []
    for text in (held, (shared / 'wikitext2_test.txt').read_text('utf-8')):
        found = tokens(text)[: WINDOWS.value * SEQ_LEN]
        measured.append(found.reshape(-1, SEQ_LEN))
    mask = np.ones((len(read), SEQ_LEN), bool)
    return Calibration(np.stack(read), mask, np.concatenate(measured))


def ours(
    model: Path, text: Any, name: str, bits: int, group_size: int, **options: Any
) -> dict[str, Any]:
    """One of our quantisations, and what it came to."""
    from belle_jax.formats import huggingface
    from belle_jax.quantization.grid import Codes
    from belle_jax.quantization.matrices import Quantising
    from belle_jax.quantization.process import Method, Quantiser
    from belle_jax.quantization.rotation import Rotated
    from belle_jax.quantization.solver import Solving
    from belle_jax.quantization.tuning import Tuning

    codes = Codes(bits, options.get('symmetric', True), 1, shrinks=options.get('shrinks', 1))
    solving = Solving(codes, max(group_size, 0), options.get('order', 'none'))
    tuning = Tuning(options['tune']) if 'tune' in options else None
    # With that much damping inputs have nothing to do with each other: rounding.
    damp = 1e9 if options.get('rounding') else 0.01
    matrices = Quantising(solving, damp, options.get('propagate', 0.0))
    method = Method(matrices, options.get('sequential', False), tuning)
    source: Any = huggingface.open(model)
    source = Rotated(source, 0) if options.get('rotate') else source
    begun = time.monotonic()
    quantiser = Quantiser(source, method, text)
    for number in range(source.architecture.layers):
        quantiser.layer(number)
    took = time.monotonic() - begun
    before, after = quantiser.losses()
    ratios = [outcome.error / outcome.rounding for outcome in quantiser.outcomes]
    figures = {'error_of_rounding': float(np.mean(ratios)), 'worst': max(ratios), 'seconds': took}
    return named(name, bits, group_size) | gaps(before, after) | figures


def theirs(model: Path, text: Any, bits: int, group_size: int) -> dict[str, Any]:
    """GPTQModel's, measured by our loader."""
    from belle_jax import load_model

    with tempfile.TemporaryDirectory() as folder:
        tokens, target = Path(folder) / 'tokens.npy', Path(folder) / 'quantised'
        np.save(tokens, text.tokens)
        peer = Path(__file__).absolute().with_name('gptq_peer.py')
        command = [PEER.value, peer, model.absolute(), tokens, target, str(bits), str(group_size)]
        # It writes logs where it is.
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        before, after = (losses(load_model(path), text.held) for path in (model, target))
    return named('GPTQModel', bits, group_size) | gaps(before, after) | figures


def losses(model: Any, held: np.ndarray) -> np.ndarray:
    """The mean loss of each window."""
    import jax
    from flax import nnx

    graphdef, params = nnx.split(model)

    @jax.jit
    def of(params: Any, tokens: np.ndarray) -> jax.Array:
        decoder = nnx.merge(graphdef, params)
        return decoder.token_losses(decoder.hidden(tokens)[:, :-1], tokens[:, 1:]).mean(axis=1)

    return np.concatenate([of(params, held[i : i + 8]) for i in range(0, len(held), 8)])


def named(name: str, bits: int, group_size: int) -> dict[str, Any]:
    """What was quantised how."""
    return {'name': name, 'bits': bits, 'group_size': group_size}


def gaps(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Perplexities of both halves, and the change of the loss over all windows, nats a token."""
    half, change = len(before) // 2, after - before
    return {
        'chinese_before': float(np.exp(before[:half].mean())),
        'chinese': float(np.exp(after[:half].mean())),
        'english_before': float(np.exp(before[half:].mean())),
        'english': float(np.exp(after[half:].mean())),
        'gap': float(change.mean()),
        'gap_standard_error': float(change.std(ddof=1) / np.sqrt(len(change))),
    }


if __name__ == '__main__':
    app.run(main)
