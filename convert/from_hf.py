"""Brings a published model into a run directory, at step 0.

    python -m convert.from_hf --source=BelleGroup/BELLE-7B-2M --target=runs/belle --template=belle

Sample from the run, export it again with convert.to_hf, or train from it with
--config.model.source=runs/belle. (Training reads published directories as well, without this step.)
"""

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
    # On a machine with an accelerator the whole model would otherwise go onto one device.
    import jax

    jax.config.update('jax_platforms', 'cpu')
    from belle_jax.training import initial

    target = Path(str(TARGET.value))
    try:
        print(initial.from_published(str(SOURCE.value), target, DTYPE.value, TEMPLATE.value))
    except (ValueError, OSError) as error:
        sys.exit(f'convert.from_hf: {error}')


if __name__ == '__main__':
    flags.mark_flags_as_required(['source', 'target'])
    logging.set_verbosity(logging.WARNING)  # Orbax tells every file
    app.run(main)
