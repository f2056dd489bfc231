"""Brings a published model into a run directory, at step 0.

    belle-jax convert from_hf --source=BelleGroup/BELLE-7B-2M --target=runs/belle --template=belle

Sample from the run, export it again with convert.to_hf, or train from it with
--config.model.source=runs/belle. (Training reads published directories as well, without this step.)
"""

from pathlib import Path

from absl import flags

from belle_jax import cli
from belle_jax.weights.tensors import DTYPES

SOURCE = flags.DEFINE_string('source', None, 'Hugging Face directory or hub name.')
TARGET = flags.DEFINE_string('target', None, 'Run directory to make.')
DTYPE = flags.DEFINE_enum(
    'dtype',
    'float32',
    [*DTYPES, 'source'],
    "Of the checkpoint; source: as published. A run's trained parameters are float32.",
)
TEMPLATE = flags.DEFINE_string(
    'template', '', "Chat template to sample with; by default the tokenizer's own, or none."
)
IGNORE_CRC = flags.DEFINE_boolean(
    'ignore_crc', False, 'Take PyTorch files with wrong checksums, as some programs write them.'
)


def main() -> object:
    """Converts, and returns the run directory."""
    # On a machine with an accelerator the whole model would otherwise go onto one device.
    import jax

    jax.config.update('jax_platforms', 'cpu')
    from belle_jax.runs import conversion

    target = Path(str(TARGET.value))
    return conversion.from_published(
        str(SOURCE.value), target, DTYPE.value, TEMPLATE.value, IGNORE_CRC.value
    )


if __name__ == '__main__':
    cli.run(main, required=('source', 'target'))
