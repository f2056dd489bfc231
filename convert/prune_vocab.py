"""Leaves out of a model's vocabulary what a corpus does not need.

    belle-jax convert prune_vocab --model=bigscience/bloomz-560m --corpus=novel.txt \
        --target=models/bloom-small

Texts of the corpus become the same pieces, whose rows are the same numbers. Bytes and special
tokens stay. The target's vocabulary.json has the old id of each new one.
"""

from absl import flags

from belle_jax import cli
from belle_jax.vocabularies import pruning

MODEL = flags.DEFINE_string('model', None, 'Hugging Face directory or hub name.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
CORPUS = flags.DEFINE_list('corpus', [], 'Files of text or rows, all that is to stay as it is.')


def main() -> object:
    """Prunes, and returns the report in short."""
    if not CORPUS.value:
        raise ValueError('--corpus is missing: give files of the texts that the model is for.')
    report = pruning.prune(str(MODEL.value), str(TARGET.value), CORPUS.value)
    return f'{pruning.summary(report)}\n{TARGET.value}'


if __name__ == '__main__':
    cli.run(main, required=('model', 'target'))
