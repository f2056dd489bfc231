"""What quantising costs in perplexity and in time, by option, and beside GPTQModel.

    python -m benchmarks.gptq [--models=runs/small] [--peer=PYTHON] [--output=gptq.json]

On the models of benchmarks.small_models. All quantisations of a family read the same windows of
what it was trained on, and are measured by one loader on the same windows: of held-out chapters, of
WikiText-2's test split. --peer names a Python that has gptqmodel (in an environment of its own),
which quantises the same at its own defaults, in turns with ours. Times are those of quantising
alone, the first of a family with compilation; --notimes leaves them out, for a machine that does
other work. Rows that --output has already are not made again.

--part=stories takes the trained model of 172 columns instead, which no group divides; it reads
stories of its own and is measured on a text of its kind. --part=block takes one layer of LLaMA-7B's
shape, with random weights, and rows of 2,048 tokens (--samples=8): it is there for the time alone.
"""

import itertools
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.figures import save

MODELS = flags.DEFINE_string('models', 'runs/small', 'What benchmarks.small_models made.')
SHARED = flags.DEFINE_string('shared', '../shared', 'Folder of the shared test files.')
FAMILIES = flags.DEFINE_multi_enum('family', ['llama', 'bloom'], ['llama', 'bloom'], 'Which.')
TABLES = ['peer', 'grid', 'variants', 'options', 'tables']
ALONE = ['stories', 'block']
PARTS = flags.DEFINE_multi_enum('part', TABLES, TABLES + ALONE, 'Which tables.')
BITS = flags.DEFINE_multi_integer('bits', [4, 3, 2, 8], 'Of the tables of bits and groups.')
GROUPS = flags.DEFINE_multi_integer('group', [128, -1, 64, 32], 'Of the same tables.')
PEER = flags.DEFINE_string('peer', '', 'A Python that has gptqmodel; without one it is left out.')
SAMPLES = flags.DEFINE_integer('samples', 128, 'Of calibration, of 512 tokens.')
WINDOWS = flags.DEFINE_integer('windows', 136, 'Of each text that is measured on, at most.')
TIMES = flags.DEFINE_bool('times', True, 'Whether to say how long each took.')
OUTPUT = flags.DEFINE_string('output', 'runs/benchmarks/gptq.json', 'Where the figures go.')

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
Rows = Iterator[tuple[str, int, int, dict[str, Any]]]
"""Name, bits, group size, and options of ours; {'peer': ORDER} for GPTQModel's."""


def main(_: list[str]) -> None:
    """Measures, and prints a line for each quantisation."""
    path = Path(OUTPUT.value)
    rows = json.loads(path.read_text('utf-8'))['rows'] if path.is_file() else []
    there = {(r['family'], r['name'], r['bits'], r['group_size']) for r in rows}
    alone = [part for part in PARTS.value if part in ALONE]
    families = alone or FAMILIES.value
    for family, model, text, parts in map(subject, families):
        side = Sides(model, text, parts)
        for name, bits, group_size, options in planned(family):
            start = {'family': family, 'name': name, 'bits': bits, 'group_size': group_size}
            if tuple(start.values()) in there:
                continue
            peer = options.pop('peer', '')
            make = side.theirs(bits, group_size, peer) if peer else None
            row = make or side.ours(bits, group_size, **options)
            if not TIMES.value:
                del row['seconds']
            rows.append(start | row | {'samples': len(text.tokens), 'windows': len(text.held)})
            print(json.dumps(rows[-1]), flush=True)
            save(OUTPUT.value, 'gptq', rows=rows)
    print(f'The figures are in {path}')


def planned(family: str) -> Rows:
    """All quantisations of one model, those first that most is asked of."""
    if family == 'stories':
        for bits, group_size in ((8, 128), (4, 128), (4, 64), (4, -1)):
            yield 'default', bits, group_size, {**BEST}
            yield 'rounding', bits, group_size, {'rounding': True}
        return
    if family == 'block':
        if PEER.value:
            yield 'GPTQModel', 4, 128, {'peer': 'default'}
        yield 'default', 4, 128, {**BEST}
        yield 'default, propagate 0', 4, 128, {**BEST, 'propagate': 0.0}
        return
    if 'peer' in PARTS.value and PEER.value:
        for group_size, bits in itertools.product(GROUPS.value, BITS.value):
            yield 'GPTQModel', bits, group_size, {'peer': 'default'}
            if group_size == -1:  # where that order costs nothing
                yield 'GPTQModel, desc_act', bits, group_size, {'peer': 'desc_act'}
    if 'grid' in PARTS.value:
        for group_size, bits in itertools.product(GROUPS.value, BITS.value):
            yield 'default', bits, group_size, {**BEST}
            yield 'rounding', bits, group_size, {'rounding': True}
    if 'variants' in PARTS.value:
        for bits in BITS.value:
            if family == 'llama':
                yield 'default, rotate', bits, -1, {**BEST, 'rotate': True}
            if bits < 4:
                yield 'default, tune', bits, 128, {**BEST, 'tune': 4}
                yield 'default, nosym', bits, 128, {**BEST, 'symmetric': False}
    if 'options' in PARTS.value:
        for name, option in OPTIONS.items():
            if family == 'llama' or name != 'rotate':
                yield name, 3, 128, {**option}
    if 'tables' in PARTS.value:
        for bits in (8, 4):
            yield f'default, tables of {bits} bits', 4, 128, {**BEST, 'tables': bits}


def subject(family: str) -> tuple[str, Path, Any, dict[str, slice]]:
    """A model, what it reads and is measured on, and the languages of that."""
    from belle_jax.quantization.calibration import Calibration

    if family in ALONE:
        return (family, *{'stories': stories, 'block': block}[family]())
    model, shared = Path(MODELS.value) / family, Path(SHARED.value) / 'data' / 'text'
    rng = np.random.default_rng(0)
    held = (model.parent / 'heldout_zh.txt').read_text('utf-8')
    novel = (shared / 'xiyouji.txt').read_text('utf-8')
    assert novel.endswith(held), 'the held-out chapters are not the last ones'
    read = []
    for text in (novel[: -len(held)], (shared / 'wikitext2_valid.txt').read_text('utf-8')):
        found = tokens(model, text)
        for start in rng.integers(0, len(found) - SEQ_LEN, SAMPLES.value // 2):
            read.append(found[start : start + SEQ_LEN])
    measured = []
    for text in (held, (shared / 'wikitext2_test.txt').read_text('utf-8')):
        found = tokens(model, text)[: WINDOWS.value * SEQ_LEN]
        measured.append(found[: len(found) // SEQ_LEN * SEQ_LEN].reshape(-1, SEQ_LEN))
    mask = np.ones((len(read), SEQ_LEN), bool)
    text = Calibration(np.stack(read), mask, np.concatenate(measured))
    count = len(measured[0])
    parts = {'chinese': slice(0, count), 'english': slice(count, None)}
    return family, model, text, parts


def stories() -> tuple[Path, Any, dict[str, slice]]:
    """The same of stories260K."""
    from belle_jax import load_model
    from belle_jax.decoding import Engine, Sampling
    from belle_jax.quantization.calibration import Calibration
    from tests.support import llama2c

    folder = Path(SHARED.value) / 'data' / 'tinystories-260k'
    model = Path(OUTPUT.value).parent / 'stories260K'
    if not model.is_dir():
        llama2c.to_huggingface(folder / 'stories260K.bin', folder / 'tok512.model', model)
    length, samples = 128, SAMPLES.value
    settings = Sampling(length - 1, length - 1, temperature=1.0)
    answers = Engine(load_model(model), batch_size=32).generate([[1]] * samples, settings)
    read = np.asarray([[1, *answer.tokens] for answer in answers], np.int32)
    found = tokens(model, (folder / 'tinystories_sample.txt').read_text('utf-8'))
    held = found[: len(found) // length * length].reshape(-1, length)
    text = Calibration(read, np.ones(read.shape, bool), held)
    return model, text, {'english': slice(None)}


def block() -> tuple[Path, Any, dict[str, slice]]:
    """The same of one layer of LLaMA-7B's shape."""
    import shutil

    import transformers

    from belle_jax.quantization.calibration import Calibration

    shared, model = Path(SHARED.value) / 'data', Path(OUTPUT.value).parent / 'block'
    if not model.is_dir():
        shutil.copytree(shared / 'tokenizers' / 'zh_bpe_6400', model)
        config = transformers.LlamaConfig(
            vocab_size=6400, hidden_size=4096, intermediate_size=11008, num_hidden_layers=1
        )
        transformers.LlamaForCausalLM(config).save_pretrained(model)
    length = 2048
    found = tokens(model, (shared / 'text' / 'xiyouji.txt').read_text('utf-8'))
    rows = found[: (SAMPLES.value + 1) * length].reshape(-1, length)
    text = Calibration(rows[:-1], np.ones(rows[:-1].shape, bool), rows[-1:])
    return model, text, {'chinese': slice(None)}


def tokens(model: Path, text: str) -> np.ndarray:
    """Of a text, by a model's tokenizer."""
    from belle_jax.data import marked_text, tokenizer

    return np.asarray(marked_text.encode(tokenizer.load(model), text), np.int32)


class Sides:
    """Both ways to quantise one model, measured alike."""

    def __init__(self, model: Path, text: Any, parts: Mapping[str, slice]):
        from belle_jax import load_model
        from benchmarks.loss_gap import Yardstick

        self._model, self._text = model, text
        self._yardstick = Yardstick(load_model(model), text.held, parts)

    def ours(self, bits: int, group_size: int, **options: Any) -> dict[str, Any]:
        """One of our quantisations, and what it came to."""
        from belle_jax.formats import huggingface
        from belle_jax.quantization import tables
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
        source: Any = huggingface.open(self._model)
        source = Rotated(source, 0) if options.get('rotate') else source
        made = {
            name: tables.quantised(source, name, options['tables'], max(group_size, 0)).rows
            for name in ('embed.table', 'head.table')
            if 'tables' in options
        }
        begun = time.monotonic()
        text = self._text._replace(held=self._text.held[:0])
        if options.get('rounding'):  # which no text changes
            text = text._replace(tokens=text.tokens[:1], mask=text.mask[:1])
        quantiser = Quantiser(source, method, text, made)
        layers = [quantiser.layer(number) for number in range(source.architecture.layers)]
        took = time.monotonic() - begun
        ratios = [outcome.error / outcome.rounding for outcome in quantiser.outcomes]
        figures = self._yardstick.measure(dense(source, layers, made))
        errors = {'error_of_rounding': float(np.mean(ratios)), 'worst': max(ratios)}
        return figures | errors | {'seconds': took}

    def theirs(self, bits: int, group_size: int, order: str) -> dict[str, Any]:
        """GPTQModel's."""
        from belle_jax import load_model

        with tempfile.TemporaryDirectory() as folder:
            read, target = Path(folder) / 'tokens.npy', Path(folder) / 'quantised'
            np.save(read, self._text.tokens)
            peer = Path(__file__).absolute().with_name('gptq_peer.py')
            how = str(bits), str(group_size), order
            command = [PEER.value, peer, self._model.absolute(), read, target, *how]
            # It writes logs where it is.
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
            figures = json.loads(done.stdout.strip().splitlines()[-1])
            return self._yardstick.measure(load_model(target)) | figures


def dense(source: Any, layers: list[Any], ends: Mapping[str, np.ndarray]) -> Any:
    """The model whose weights are what the codes of all layers stand for."""
    import jax.numpy as jnp

    from belle_jax import models

    arrays = {}
    for name, shape in source.shapes.items():
        if not name.startswith('blocks.'):
            index = tuple(slice(0, n) for n in shape)
            arrays[name] = ends.get(name, source.read(name, index, np.dtype(np.float32)))
            continue
        part = name.removeprefix('blocks.0.')
        product = part.removesuffix('.kernel')
        arrays[name] = np.stack(
            [
                one.solutions[product].weights if part != product else one.floats[part]
                for one in layers
            ]
        ).reshape(shape)
    blueprint = models.Blueprint(source.architecture)
    return models.build(blueprint, {name: jnp.asarray(array) for name, array in arrays.items()})


if __name__ == '__main__':
    app.run(main)
