"""Exports a run as a Hugging Face directory.

    belle-jax convert to_hf --source=runs/sft --target=models/sft --dtype=bfloat16

The newest checkpoint that its manifest vouches for is taken, or the one that --source names
(runs/sft/checkpoints/100). It is read slice by slice: no device and no mesh is needed, and memory
holds a few blocks of rows. The result loads with transformers' AutoModelForCausalLM.
"""

from absl import flags

from belle_jax import cli
from belle_jax.runs import conversion
from belle_jax.weights import shards
from belle_jax.weights.tensors import DTYPES

SOURCE = flags.DEFINE_string('source', None, 'Run directory, or one of its checkpoints.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
DTYPE = flags.DEFINE_enum(
    'dtype',
    '',
    ['', *DTYPES],
    'Of the weights; by default that of the published weights which the run began with, else '
    'float32.',
)
MAX_SHARD_SIZE = flags.DEFINE_string('max_shard_size', '5GB', 'Of a weight file: 500MB, 2GiB, ...')
MERGE = flags.DEFINE_boolean(
    'merge', False, 'Add an adapter to the weights; otherwise it is written as PEFT has it.'
)
FORMAT = flags.DEFINE_enum('format', 'safetensors', list(shards.KINDS), 'Of the weight files.')


def main() -> object:
    """Exports, and returns the directory."""
    source, target = str(SOURCE.value), str(TARGET.value)
    size = shards.parse_size(MAX_SHARD_SIZE.value)
    return conversion.to_huggingface(source, target, DTYPE.value, size, FORMAT.value, MERGE.value)


if __name__ == '__main__':
    cli.run(main, required=('source', 'target'))
