"""Meta's LLaMA 1, 2 and 3 files as a Hugging Face directory.

    belle-jax convert from_meta --source=LLaMA/7B --target=models/llama-7b

--source holds consolidated.00.pth and its fellows (one to eight), params.json and tokenizer.model,
which may also lie in the directory above. Nothing in the .pth files is run, and memory holds a few
blocks of rows, whatever the model's size. The result loads with belle_jax.load_model and with
transformers' AutoModelForCausalLM and AutoTokenizer.
"""

from absl import flags

from belle_jax import cli
from belle_jax.files import require_new
from belle_jax.formats import huggingface, meta
from belle_jax.weights import shards
from belle_jax.weights.tensors import DTYPES

SOURCE = flags.DEFINE_string('source', None, "Directory of Meta's files.")
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
DTYPE = flags.DEFINE_enum('dtype', '', ['', *DTYPES], 'Of the weights; by default as stored.')
MAX_SHARD_SIZE = flags.DEFINE_string('max_shard_size', '5GB', 'Of a weight file: 500MB, 2GiB, ...')
FORMAT = flags.DEFINE_enum('format', 'safetensors', list(shards.KINDS), 'Of the weight files.')
MAX_POSITION = flags.DEFINE_integer(
    'max_position',
    0,
    "Tokens of context, which Meta's files do not give; by default that of the release.",
    lower_bound=0,
)
IGNORE_CRC = flags.DEFINE_boolean(
    'ignore_crc', False, 'Take PyTorch files with wrong checksums, as some programs write them.'
)


def main() -> object:
    """Converts, and returns the directory."""
    target = str(TARGET.value)
    require_new(target)
    model = meta.open(str(SOURCE.value), MAX_POSITION.value, IGNORE_CRC.value)
    size = shards.parse_size(MAX_SHARD_SIZE.value)
    return huggingface.write(model, target, DTYPE.value, size, FORMAT.value)


if __name__ == '__main__':
    cli.run(main, required=('source', 'target'))
