"""A Hugging Face directory of a LLaMA in Meta's layout.

    belle-jax convert to_meta --source=models/llama-13b --target=LLaMA/13B --shards=2

Writes consolidated.NN.pth (one for each GPU that Meta's code shall use), params.json and
tokenizer.model. What that layout cannot say, such as biases or linearly scaled positions, is
refused. convert.from_meta gives every tensor back to the bit.
"""

from absl import flags

from belle_jax import cli
from belle_jax.files import require_new
from belle_jax.formats import huggingface, meta
from belle_jax.weights.tensors import DTYPES

SOURCE = flags.DEFINE_string('source', None, 'Hugging Face directory or hub name.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
SHARDS = flags.DEFINE_integer(
    'shards',
    1,
    'Files to cut the model into; Meta has 7B in 1, 13B in 2, 30B in 4, 65B in 8.',
    lower_bound=1,
)
DTYPE = flags.DEFINE_enum('dtype', '', ['', *DTYPES], 'Of the weights; by default as stored.')
IGNORE_CRC = flags.DEFINE_boolean(
    'ignore_crc', False, 'Take PyTorch files with wrong checksums, as some programs write them.'
)


def main() -> object:
    """Converts, and returns the directory."""
    target = str(TARGET.value)
    require_new(target)
    model = huggingface.open(str(SOURCE.value), ignore_crc=IGNORE_CRC.value)
    return meta.write(model, target, SHARDS.value, DTYPE.value)


if __name__ == '__main__':
    cli.run(main, required=('source', 'target'))
