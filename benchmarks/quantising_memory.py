"""The host memory that quantising takes, layer by layer.

    MALLOC_MMAP_THRESHOLD_=1000000 python -m benchmarks.quantising_memory [--output=memory.json]

A LLaMA of many layers with random weights, in a file, is quantised as `convert gptq` does it. The
process' memory, but for files that it maps, is read after each layer, and all the time for the most
that a layer takes: neither grows with the layers. Beside them the bytes that have to be there: the
text's states, of which there are two streams; what one open stage reads; one layer in float32.
With that setting glibc gives back what is freed, as it does anyway with arrays of more than 32 MB,
which those of a large model are.
"""

import gc
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.figures import write

LAYERS = flags.DEFINE_integer('layers', 24, 'Of the model.')
EMBED = flags.DEFINE_integer('embed', 512, 'Its width; a third of the inner one of its MLPs.')
SAMPLES = flags.DEFINE_integer('samples', 64, 'Of calibration, of 512 tokens.')
TUNE = flags.DEFINE_integer('tune', 0, 'Epochs that each layer is trained for.')
OUTPUT = flags.DEFINE_string('output', 'runs/benchmarks/quantising_memory.json', 'For figures.')

SEQ_LEN = 512
MB = 2**20


def main(_: list[str]) -> None:
    """Measures, prints JSON, and writes it to --output."""
    from belle_jax.config import Architecture

    architecture = Architecture(
        family='llama',
        vocab_size=4096,
        embed=EMBED.value,
        layers=LAYERS.value,
        q_heads=EMBED.value // 64,
        mlp=3 * EMBED.value,
        max_position=SEQ_LEN,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = save(architecture, Path(folder) / 'model')
        before, size = resident(), model.stat().st_size
        rows = list(measured(model, architecture))
    a_token = 4 * SAMPLES.value * SEQ_LEN
    write(
        OUTPUT.value,
        'quantising_memory',
        layers=LAYERS.value,
        embed=EMBED.value,
        samples=SAMPLES.value,
        tune=TUNE.value,
        states_mb=round(a_token * EMBED.value / MB),
        open_stage_mb=round(3 * a_token * EMBED.value / MB),
        layer_mb=round(4 * (4 + 9) * EMBED.value**2 / MB),
        model_mb=round(size / MB),
        before_mb=before,
        rows=rows,
    )


def save(architecture: Any, directory: Path) -> Path:
    """Writes a random model; its file."""
    from belle_jax import families
    from belle_jax.formats import huggingface
    from belle_jax.json_files import write_json
    from belle_jax.weights import safetensors
    from belle_jax.weights.tensors import planned

    rng = np.random.default_rng(0)
    tensors = [
        planned(name, rng.standard_normal(entry.their_shape, np.float32) * 0.02)
        for entry in families.tensor_maps(architecture)
        for name in entry.their_names
    ]
    directory.mkdir()
    write_json(
        directory / 'config.json', huggingface.architecture_to_hf_config(architecture, 'float32')
    )
    safetensors.write(directory / 'model.safetensors', tensors)
    return directory / 'model.safetensors'


def measured(model: Path, architecture: Any) -> Any:
    """Memory after each layer, in MB."""
    from belle_jax.formats import huggingface
    from belle_jax.quantization.calibration import Calibration
    from belle_jax.quantization.grid import Codes
    from belle_jax.quantization.matrices import Quantising
    from belle_jax.quantization.process import Method, Quantiser
    from belle_jax.quantization.solver import Solving
    from belle_jax.quantization.tuning import Tuning

    rng = np.random.default_rng(0)
    shape = SAMPLES.value, SEQ_LEN
    tokens = rng.integers(0, architecture.vocab_size, shape, np.int32)
    text = Calibration(tokens, np.ones(shape, bool), tokens[:0])
    matrices = Quantising(Solving(Codes(4, shrinks=20)), propagate=0.5)
    method = Method(matrices, tuning=Tuning(TUNE.value) if TUNE.value else None)
    quantiser = Quantiser(huggingface.open(model.parent), method, text)
    for number in range(architecture.layers):
        with Peak() as peak:
            quantiser.layer(number)
        gc.collect()
        yield {'layer': number, 'after_mb': resident(), 'most_mb': peak.most}


class Peak:
    """The most memory that the process has meanwhile, in MB."""

    def __enter__(self):
        self.most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.most = max(self.most, resident())


def resident() -> int:
    """MB that the process has in memory, but for what it maps from files."""
    lines = Path('/proc/self/status').read_text('ascii').splitlines()
    return int(next(line for line in lines if line.startswith('RssAnon')).split()[1]) // 1024


if __name__ == '__main__':
    app.run(main)
