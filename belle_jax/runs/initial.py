"""A run directory at step 0 from a published model: nothing trained yet."""

import dataclasses
import math
from pathlib import Path

import jax

from belle_jax import config
from belle_jax.data import templates, tokenizer
from belle_jax.files import new_directory, require_new
from belle_jax.formats import huggingface
from belle_jax.runs import origin
from belle_jax.runs.checkpoints import Checkpoints
from belle_jax.training.step import State
from belle_jax.weights import parameters
from belle_jax.weights.tensors import DTYPES


def from_published(source: str, target: Path, dtype: str = 'float32', template: str = '') -> Path:
    """Writes a run directory with the parameters of a published model.

    Args:
        source: Hugging Face directory or hub name.
        target: Run directory; new, or empty.
        dtype: Of the checkpoint, or 'source'.
        template: Name of the chat template that the run's configuration gets.
    Returns:
        The target.
    Raises:
        ValueError: the source is incomplete or not supported, or the target is not empty.
        OSError: the disk is full; nothing is left behind.
    """
    require_new(target)
    published = huggingface.open(source)
    dtype = published.dtype if dtype == 'source' else dtype
    numbers = sum(math.prod(shape) for shape in published.shapes.values())
    with new_directory(target, numbers * DTYPES[dtype].itemsize) as partial:
        _write(published, source, partial, dtype, template)
    return target


def _write(published, source: str, target: Path, dtype: str, template: str) -> None:
    origin.keep(published.directory, target, name=source)
    if not template and (target / 'tokenizer').is_dir():
        template = 'tokenizer' if tokenizer.load(target / 'tokenizer').chat_template else 'none'
    if template and template not in templates.NAMES:
        raise ValueError(f'--template={template!r} is not known: {", ".join(templates.NAMES)} are.')

    run = config.Run()
    run = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, source=source, architecture=published.architecture),
        data=dataclasses.replace(run.data, template=template or 'none'),
    )
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = parameters.place(published, dict.fromkeys(published.shapes, everywhere), dtype)
    largest = max(a.nbytes for a in params.values())
    checkpoints = Checkpoints(target / 'checkpoints', concurrent_bytes=largest + 2**26)
    checkpoints.save(0, State(params, {}), {'optimiser': False})
    checkpoints.close()
    config.save(run, target / 'config.json')
