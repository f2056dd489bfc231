"""Brings a model of PaddleNLP's into a Hugging Face directory.

    belle-jax convert from_paddle --source=belle-7b-2m --target=models/belle-7b-2m

The source holds model_state.pdparams, config.json and the tokenizer (vocab.json and merges.txt).
The weights are a pickle, of which no code is run; they are copied tensor by tensor, bit for bit and
in the dtype that they have. PaddleNLP's chat_template.json becomes a chat_template if it says what
a template here says; the output says so. Go on with convert.from_hf, or train with
--config.model.source=models/belle-7b-2m.
"""

from absl import flags

from belle_jax import cli
from belle_jax.files import require_new
from belle_jax.formats import huggingface, paddle
from belle_jax.weights import shards

SOURCE = flags.DEFINE_string('source', None, "PaddleNLP's directory.")
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
MAX_SHARD_SIZE = flags.DEFINE_string('max_shard_size', '5GB', 'Of a weight file: 500MB, 2GiB, ...')
FORMAT = flags.DEFINE_enum('format', 'safetensors', list(shards.KINDS), 'Of the weight files.')


def main() -> object:
    """Converts, and returns the directory."""
    target = str(TARGET.value)
    require_new(target)
    size = shards.parse_size(MAX_SHARD_SIZE.value)
    model = paddle.open(str(SOURCE.value))
    return huggingface.write(model, target, max_shard_size=size, kind=FORMAT.value)


if __name__ == '__main__':
    cli.run(main, required=('source', 'target'))
