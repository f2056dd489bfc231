"""Writes a Hugging Face directory of a BLOOM or LLaMA as PaddleNLP has it.

    belle-jax convert to_paddle --source=models/sft --target=models/sft-paddle --dtype=float16

The result is model_state.pdparams, config.json, vocab.json and merges.txt (LLaMA:
sentencepiece.bpe.model), which PaddleNLP's AutoModelForCausalLM and AutoTokenizer load, and
chat_template.json where the model has a template that PaddleNLP's format can say.
"""

from absl import flags

from belle_jax import cli
from belle_jax.files import require_new
from belle_jax.formats import huggingface, paddle
from belle_jax.weights.tensors import DTYPES

SOURCE = flags.DEFINE_string('source', None, 'Hugging Face directory or hub name.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
DTYPE = flags.DEFINE_enum(
    'dtype', 'source', ['source', *DTYPES], 'Of the weights; source: every tensor as it is stored.'
)
IGNORE_CRC = flags.DEFINE_boolean(
    'ignore_crc', False, 'Take PyTorch files with wrong checksums, as some programs write them.'
)


def main() -> object:
    """Converts, and returns the directory."""
    dtype = '' if DTYPE.value == 'source' else DTYPE.value
    target = str(TARGET.value)
    require_new(target)
    model = huggingface.open(str(SOURCE.value), ignore_crc=IGNORE_CRC.value)
    return paddle.write(model, target, dtype)


if __name__ == '__main__':
    cli.run(main, required=('source', 'target'))
