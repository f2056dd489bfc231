"""The difference of two models, which gives the one to whoever has the other.

    belle-jax convert delta make --base=llama-7b-hf --tuned=models/sft --target=delta
    belle-jax convert delta apply --base=llama-7b-hf --delta=delta --target=models/sft

Tensors are compared by name: shards and formats (safetensors, .bin) may differ. What is written is
the XOR of the bits, compressed; what the base lacks (new rows of a vocabulary, an adapter) whole.
Applying checks the delta and the base first, and gives back every bit.
"""

from absl import flags

from belle_jax import cli
from belle_jax.diffs import delta
from belle_jax.flag_readers import require_read, table
from belle_jax.weights import shards

BASE = flags.DEFINE_string('base', None, 'Hugging Face directory or hub name of the base.')
TUNED = flags.DEFINE_string('tuned', None, 'make: the model that was made from the base.')
DELTA = flags.DEFINE_string('delta', None, 'apply: directory of the difference.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
MAX_SHARD_SIZE = flags.DEFINE_string('max_shard_size', '5GB', 'Of a file: 500MB, 2GiB, ...')
FORMAT = flags.DEFINE_enum('format', 'safetensors', list(shards.KINDS), 'apply: of the weights.')
LEVEL = flags.DEFINE_integer('level', delta.LEVEL, 'make: of zstandard, 1 to 22.')
THREADS = flags.DEFINE_integer('threads', 0, '0: one a processor.', lower_bound=0)
IGNORE_CRC = flags.DEFINE_boolean(
    'ignore_crc', False, 'Take PyTorch files with wrong checksums, as some programs write them.'
)


def main(action: str) -> object:
    """Makes or applies, and returns the directory."""
    require_read(table({'tuned level': 'make', 'delta format': 'apply'}), action)
    needed = TUNED if action == 'make' else DELTA
    if not needed.value:
        raise ValueError(f'{action} needs --{needed.name}=DIR.')
    base, target, threads = str(BASE.value), str(TARGET.value), int(THREADS.value or 0)
    size = shards.parse_size(str(MAX_SHARD_SIZE.value))
    if action == 'make':
        level = int(LEVEL.value or 0)
        return delta.make(base, needed.value, target, size, level, threads, IGNORE_CRC.value)
    return delta.apply(base, needed.value, target, size, str(FORMAT.value), threads)


if __name__ == '__main__':
    cli.run(main, required=('base', 'target'), actions=('make', 'apply'))
