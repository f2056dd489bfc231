"""Appends pieces to a model's vocabulary, with rows to begin training from.

    belle-jax convert extend_vocab --model=models/llama-7b --add=chinese_sp.model \
        --target=models/llama-7b-zh
    belle-jax convert extend_vocab --model=bigscience/bloomz-560m --train=novel.txt --size=5000 \
        --target=models/bloom-zh

LLaMA's SentencePiece models and byte-level BPE as BLOOM's. Old ids stay; a new row is the mean of
the rows that its piece had before. The target's vocabulary.json says where the new ids begin, what
texts cost before and after, which lines change, and which pieces no text becomes.
"""

from absl import flags

from belle_jax import cli
from belle_jax.flag_readers import require_read, table
from belle_jax.vocabularies import extension
from belle_jax.vocabularies.vocabulary_files import TrainingPlan

MODEL = flags.DEFINE_string('model', None, 'Hugging Face directory or hub name.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
ADD = flags.DEFINE_string('add', '', 'Second tokenizer whose pieces are appended: file or folder.')
TRAIN = flags.DEFINE_list('train', [], 'Or files to learn pieces from: text, or rows.')
SIZE = flags.DEFINE_integer(
    'size',
    50_000,
    'Of the vocabulary that is learnt; of a byte-level BPE, what is new of it.',
    lower_bound=1,
)
KIND = flags.DEFINE_enum('kind', 'bpe', ['bpe', 'unigram'], 'How SentencePiece learns.')
COVERAGE = flags.DEFINE_float(
    'coverage',
    0.9995,
    'Share of the characters that SentencePiece makes pieces of; others are spelled in bytes.',
    lower_bound=0.9,
    upper_bound=1.0,
)
KEEP_ASCII = flags.DEFINE_boolean('keep_ascii', False, 'Append nothing that changes ASCII lines.')
REPORT_TEXT = flags.DEFINE_list(
    'report_text', [], 'Files to compare both vocabularies on; by default those of --train.'
)


def main() -> object:
    """Extends, and returns the report in short."""
    if bool(ADD.value) == bool(TRAIN.value):
        raise ValueError('give --add=TOKENIZER or --train=FILES, one of them.')
    require_read(table({'size kind coverage': '--train'}), '--add' if ADD.value else '--train')
    plan = TrainingPlan(int(SIZE.value or 0), str(KIND.value), float(COVERAGE.value or 0))
    report = extension.extend(
        str(MODEL.value),
        str(TARGET.value),
        add=str(ADD.value),
        train=TRAIN.value,
        plan=plan,
        keep_ascii=bool(KEEP_ASCII.value),
        report_texts=REPORT_TEXT.value,
    )
    return f'{extension.summary(report)}\n{TARGET.value}'


if __name__ == '__main__':
    cli.run(main, required=('model', 'target'))
