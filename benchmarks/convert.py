"""Memory and speed of converting a published model into a run and back.

    python -m benchmarks.convert --layers=12 --output=convert.json

Makes a LLaMA of random float16 weights (12 layers: 738M parameters, 1.5 GB), runs convert.from_hf
and convert.to_hf as processes of their own, and watches their anonymous memory: what the kernel
cannot drop, in contrast to pages of mapped files. An export is held to 1.2 times the larger of its
biggest shard and 2 GiB; from_hf may hold the model once.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from belle_jax import families
from belle_jax.families import Architecture
from belle_jax.formats import huggingface
from belle_jax.weights import shards
from belle_jax.weights.tensors import Planned

LAYERS = flags.DEFINE_integer('layers', 12, 'Of the model; each has 50.6M parameters.')
SHARD = flags.DEFINE_string('max_shard_size', '5GB', 'Of the export.')
FORMAT = flags.DEFINE_enum('format', 'safetensors', list(shards.KINDS), 'Of the export.')
FOLDER = flags.DEFINE_string('folder', None, 'Where to work; 8 bytes a parameter. By default /tmp.')
OUTPUT = flags.DEFINE_string('output', None, 'JSON file; by default only printed.')

BLOCK = 16 * 2**20  # numbers made at a time


def main(argv: list[str]) -> None:
    """Converts there and back, and prints what it took."""
    del argv
    with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
        source, run, target = (Path(folder) / name for name in ('source', 'run', 'target'))
        architecture = Architecture(
            vocab_size=32_000,
            embed=2048,
            layers=LAYERS.value,
            q_heads=16,
            mlp=5504,
            bos_id=1,
            eos_ids=(2,),
        )
        size = make(source, architecture)
        there = watch('convert.from_hf', f'--source={source}', f'--target={run}')
        flag = f'--max_shard_size={SHARD.value}'
        back = watch(
            'convert.to_hf',
            f'--source={run}',
            f'--target={target}',
            flag,
            f'--format={FORMAT.value}',
        )
        biggest = max(p.stat().st_size for p in target.glob(f'*.{FORMAT.value}'))
        bound = 1.2 * max(biggest, 2 * 2**30)
        report = {
            'weights_gb': size / 1e9,
            'from_hf': there | {'of_the_model_in_float32': there['peak_anonymous_gb'] * 5e8 / size},
            'to_hf': back
            | {'bound_gb': bound / 1e9, 'gb_per_second': size / 1e9 / back['seconds']},
            'exact': equal(source, target),
        }
    text = json.dumps(report, indent=2)
    print(text)
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(text + '\n', 'utf-8')
    if not report['exact'] or back['peak_anonymous_gb'] * 1e9 > bound:
        sys.exit('benchmarks.convert: the export differs, or took more memory than it may.')


def make(directory: Path, architecture: Architecture) -> int:
    """Writes a published directory, block by block; returns its weights' bytes."""
    rng = np.random.default_rng(0)

    def planned(name: str, shape: tuple[int, ...]) -> Planned:
        def blocks() -> Iterator[np.ndarray]:
            left = int(np.prod(shape))
            while left:
                count = min(left, BLOCK)
                yield (0.02 * rng.standard_normal(count, np.float32)).astype(np.float16)
                left -= count

        return Planned(name, shape, np.dtype(np.float16), blocks)

    directory.mkdir()
    values = huggingface.architecture_to_hf_config(architecture, 'float16')
    (directory / 'config.json').write_text(json.dumps(values))
    maps = families.tensor_maps(architecture)
    tensors = [planned(n, m.their_shape) for m in maps for n in m.their_names]
    shards.write(directory, tensors, 'safetensors', 10**9)
    return sum(t.size for t in tensors)


def watch(module: str, *arguments: str) -> dict[str, Any]:
    """Runs a program; its seconds and the most anonymous memory it held."""
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, '-m', module, *arguments], stdout=subprocess.DEVNULL
    )
    peak = 0

    def poll() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.005)

    thread = threading.Thread(target=poll)
    thread.start()
    code = process.wait()
    thread.join()
    if code:
        sys.exit(f'benchmarks.convert: {module} failed.')
    return {'seconds': time.monotonic() - start, 'peak_anonymous_gb': peak / 1e9}


def _anonymous(pid: int) -> int:
    try:
        status = Path(f'/proc/{pid}/status').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith('RssAnon:'):
            return int(line.split()[1]) * 1024
    return 0


def equal(source: Path, target: Path) -> bool:
    """Whether both directories hold the same tensors, to the bit."""
    ours, theirs = shards.read(target), shards.read(source)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[n].array.view(np.uint16), theirs[n].array.view(np.uint16)) for n in ours
    )


if __name__ == '__main__':
    app.run(main)
