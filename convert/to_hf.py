"""Exports a run as a Hugging Face directory.

    python -m convert.to_hf --source=runs/sft --target=models/sft --dtype=bfloat16

The newest checkpoint that its manifest vouches for is taken, or the one that --source names
(runs/sft/checkpoints/100). It is read slice by slice: no device and no mesh is needed, and memory
holds a few blocks of rows. The result loads with transformers' AutoModelForCausalLM.
"""

import sys

from absl import app, flags

from belle_jax.weights import export, shards

SOURCE = flags.DEFINE_string('source', None, 'Run directory, or one of its checkpoints.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
DTYPE = flags.DEFINE_enum(
    'dtype',
    '',
    ['', 'float32', 'bfloat16', 'float16'],
    'Of the weights; by default that of the published weights which the run began with, else '
    'float32.',
)
MAX_SHARD_SIZE = flags.DEFINE_string('max_shard_size', '5GB', 'Of a weight file: 500MB, 2GiB, ...')
FORMAT = flags.DEFINE_enum('format', 'safetensors', list(shards.STEMS), 'Of the weight files.')


def main(argv: list[str]) -> None:
    """Exports, or says in one sentence why not."""
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag: flags are written --name=value.')
    try:
        target = export.to_huggingface(
            str(SOURCE.value),
            str(TARGET.value),
            DTYPE.value,
            shards.parse_size(MAX_SHARD_SIZE.value),
            FORMAT.value,
        )
    except (ValueError, OSError) as error:
        sys.exit(f'convert.to_hf: {error}')
    print(target)


if __name__ == '__main__':
    flags.mark_flags_as_required(['source', 'target'])
    app.run(main)
