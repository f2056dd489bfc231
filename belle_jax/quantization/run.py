"""From a model directory to a quantised one: read, quantise, write, report."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from belle_jax import __version__, config, families, sharding
from belle_jax.data import tokenizer
from belle_jax.families import Packing
from belle_jax.files import remove, require_new
from belle_jax.formats import gptq, huggingface
from belle_jax.formats.protocol import PublishedModel
from belle_jax.progress import Progress
from belle_jax.quantization import calibration, report, tables
from belle_jax.quantization.calibration import Calibration
from belle_jax.quantization.export import exported
from belle_jax.quantization.process import Method, Quantiser
from belle_jax.quantization.rotation import Rotated
from belle_jax.quantization.store import Store, layers_path, left
from belle_jax.runs import conversion, run_directory
from belle_jax.runs.load import open_whole
from belle_jax.runs.parameters import Parameters, identity

TABLES = ('embed.table', 'head.table')


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """What a person asks for.

    Attributes:
        model: Hugging Face directory, hub name, run directory or checkpoint.
        target: The directory to write.
        method: How layers are quantised.
        table_bits: Of the tables over the vocabulary; 0: they stay as they are.
        rotate: Whether the model is turned before (`rotation`).
        source: Of the calibration text.
        template: Of its conversations; '': it is a text.
        samples: Of it.
        seq_len: Tokens of a sample.
        held: Windows that the model is measured on, at most.
        layout: One of `gptq.FORMATS`.
        dtype: Of what stays floating-point numbers.
        devices: That share the work.
    """

    model: str
    target: Path
    method: Method
    table_bits: int = 0
    rotate: bool = False
    source: str = 'wikitext2'
    template: str = ''
    samples: int = 128
    seq_len: int = 2048
    held: int = 32
    layout: str = 'gptq'
    dtype: str = 'float16'
    devices: int = 1

    @property
    def packing(self) -> Packing:
        """How the matrices will be kept."""
        solving = self.method.matrices.solving
        return Packing(
            solving.codes.bits,
            solving.group_size,
            symmetric=solving.codes.symmetric,
            act_order=solving.order == 'activations',
            tables=self.table_bits,
        )


def quantise(job: Quantisation) -> Path:
    """Quantises a model; work that was stopped goes on after the last whole layer.

    Several processes share the work where each calls it with the devices of all; process 0 writes.

    Returns:
        The directory.
    Raises:
        ValueError: the model or the text cannot be used; the target is there; layers of other
            settings lie beside it.
        OSError: no room, no permission, or another process is at the same work.
    """
    begun = time.monotonic()
    writes = jax.process_index() == 0
    if not (stopped := _agreed(left(job.target))):
        require_new(job.target)
    if job.devices > (available := len(jax.devices())):
        raise ValueError(f'--devices={job.devices}: this machine has {available}.')
    published, source = opened(job)
    text = _text(job, published)
    settings = _settings(job, source, text)
    if _agreed(stopped and report.is_of(job.target, settings)):  # only that was left to do
        if writes:
            remove(layers_path(job.target))
        return job.target
    require_new(job.target)
    store = Store(job.target, settings, job.packing.bits)
    mesh = sharding.make_mesh(config.Mesh(job.devices, 1, 1), jax.devices()[: job.devices])
    with store.opened() if writes else contextlib.nullcontext(), jax.set_mesh(mesh):
        made = {
            name: tables.quantised(source, name, job.table_bits, job.packing.group_size)
            for name in TABLES
            if job.table_bits and name in source.shapes
        }
        rows = {name: table.rows for name, table in made.items()}
        quantiser = Quantiser(source, job.method, text, rows, job.devices)
        _layers(quantiser, store, source.architecture.layers, writes)
        before, after = quantiser.losses()
        if not writes:
            _agreed(True)
            return job.target
        account = settings | report.account(
            store.accounts(source.architecture.layers), before, after, time.monotonic() - begun
        )
        model = exported(published, source, store, job.packing, made)

        def carry(target: Path) -> Any:
            report.write(target, account)
            return published.carry(target)

        model = dataclasses.replace(model, carry=carry)
        gptq.write(model, job.target, job.layout, job.dtype, meta=_meta(job))
        remove(store.path)
        _agreed(True)
    print(report.summary(account))
    return job.target


def opened(job: Quantisation) -> tuple[PublishedModel, Parameters]:
    """The model as any layout can write it, and its parameters by slices, turned if wanted."""
    path = huggingface.resolve(job.model)
    if run_directory.is_run_directory(path):
        checkpoint = run_directory.open_checkpoint(path)
        published = conversion.as_published(checkpoint, job.dtype)
        source = open_whole(checkpoint)
    else:
        published = source = huggingface.open(path)  # which refuses a quantised one
    return published, Rotated(source, job.method.seed) if job.rotate else source


def _text(job: Quantisation, published: PublishedModel) -> Calibration:
    """What the model reads, in samples no longer than its context."""
    run = published.directory / run_directory.TOKENIZER
    limit = families.of(published.architecture).context_limit(published.architecture)
    seq_len = min(job.seq_len, limit or job.seq_len)
    text = calibration.read(
        job.source,
        tokenizer.load(run if run.is_dir() else published.directory),
        template=job.template,
        samples=job.samples,
        seq_len=seq_len,
        held=job.held,
        seed=job.method.seed,
    )
    if seq_len < job.seq_len:
        print(f"--seq_len={seq_len}: the model's context.", file=sys.stderr)
    return text


def _agreed(value: bool) -> bool:
    """What process 0 says, for which the others wait."""
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(value)))


def _layers(quantiser: Quantiser, store: Store, count: int, writes: bool) -> None:
    progress = Progress('quantising', 'layers', count)
    for number in range(count):
        done = store.load(number)
        seen = len(quantiser.outcomes), len(quantiser.tunings)
        layer = quantiser.layer(number, done)
        if not done and writes:
            made = {
                'matrices': [dataclasses.asdict(o) for o in quantiser.outcomes[seen[0] :]],
                'tuning': [dataclasses.asdict(t) for t in quantiser.tunings[seen[1] :]],
            }
            store.save(number, layer, made)
        del layer  # before there is another
        progress.show(number + 1)
    progress.end(count)


def _settings(job: Quantisation, source: Parameters, text: Calibration) -> dict[str, Any]:
    """All that decides the codes, for the report and to know finished layers by."""
    method = dataclasses.asdict(job.method)
    return {
        'model': job.model,
        'weights': identity(source),
        'architecture': source.architecture.to_dict(),
        'bits': job.packing.bits,
        'group_size': job.packing.group_size,
        'table_bits': job.table_bits,
        'rotate': job.rotate,
        'method': method,
        'calibration': job.source,
        'template': job.template,
        'samples': job.samples,
        'seq_len': text.tokens.shape[1],
        'calibration_sha256': text.digest,
    }


def _meta(job: Quantisation) -> Mapping[str, Any]:
    method = job.method
    return {
        'quantizer': [f'belle-jax:{__version__}'],
        'damp_percent': method.matrices.damp,
        'true_sequential': method.sequential,
        'act_group_aware': method.matrices.solving.order == 'groups',
    }
