"""Brings a published model into a run directory, at step 0.

    python -m convert.from_hf --source=BelleGroup/BELLE-7B-2M --target=runs/belle --template=belle

Sample from the run, export it again with convert.to_hf, or train from it with
--config.model.source=runs/belle. (Training reads published directories as well, without this step.)
"""

import dataclasses
import shutil
import sys
from pathlib import Path

from absl import app, flags, logging

SOURCE = flags.DEFINE_string('source', None, 'Hugging Face directory or hub name.')
TARGET = flags.DEFINE_string('target', None, 'Run directory to make.')
DTYPE = flags.DEFINE_enum(
    'dtype',
    'float32',
    ['float32', 'bfloat16', 'float16', 'source'],
    "Of the checkpoint; source: as published. A run's trained parameters are float32.",
)
TEMPLATE = flags.DEFINE_string(
    'template', '', "Chat template to sample with; by default the tokenizer's own, or none."
)


def main(argv: list[str]) -> None:
    """Converts, or says in one sentence why not."""
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag: flags are written --name=value.')
    try:
        print(convert(str(SOURCE.value), Path(str(TARGET.value)), DTYPE.value, TEMPLATE.value))
    except (ValueError, OSError) as error:
        sys.exit(f'convert.from_hf: {error}')


def convert(source: str, target: Path, dtype: str = 'float32', template: str = '') -> Path:
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
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f'--target={target} is there already and not empty: give a new directory.')
    from belle_jax.weights import huggingface
    from belle_jax.weights.parameters import Published

    path = huggingface.resolve(source)
    published = Published(path, huggingface.read_architecture(path))
    existed = target.exists()
    try:
        _write(published, path, source, target, dtype, template)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        if existed:
            target.mkdir()
        raise
    return target


def _write(published, path: Path, source: str, target: Path, dtype: str, template: str) -> None:
    # A run on a machine with an accelerator would otherwise load the whole model onto one device.
    import jax

    jax.config.update('jax_platforms', 'cpu')

    from belle_jax import config
    from belle_jax.data import templates, tokenizer
    from belle_jax.training.checkpoint import Checkpoints
    from belle_jax.training.step import State
    from belle_jax.weights import origin, parameters

    target.mkdir(parents=True, exist_ok=True)
    origin.keep(path, target, name=source)
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
    dtype = published.dtype if dtype == 'source' else dtype
    everywhere = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = parameters.place(published, dict.fromkeys(published.shapes, everywhere), dtype)
    largest = max(a.nbytes for a in params.values())
    checkpoints = Checkpoints(target / 'checkpoints', concurrent_bytes=largest + 2**26)
    checkpoints.save(0, State(params, {}), {'optimiser': False})
    checkpoints.close()
    config.save(run, target / 'config.json')


if __name__ == '__main__':
    flags.mark_flags_as_required(['source', 'target'])
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file
    app.run(main)
