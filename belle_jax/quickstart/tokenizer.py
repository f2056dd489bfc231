"""Trains the quickstart's tokenizer: byte-level BPE, in the same form as BLOOM's."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# Digits stand alone, so that a number's digits can be told apart; letters, Chinese characters and
# white space each form runs, inside which BPE merges what is frequent.
PIECES = r' ?[A-Za-z]+|[\d零一二三四五六七八九十百千]|\p{Han}+|\s+|[^A-Za-z\d\p{Han}\s]'


def train(texts: Iterable[str], path: Path, vocab_size: int = 1152, frequency: int = 40) -> int:
    """Trains a tokenizer on texts and saves it as a Hugging Face directory.

    Args:
        texts: What to learn from.
        path: The directory to write.
        vocab_size: At most that many tokens (256 of them single bytes).
        frequency: How often two pieces must meet to be merged. High enough, phrasings become a few
            tokens each while characters that a task moves about stay alone.
    Returns:
        How many tokens it has.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=frequency,
            special_tokens=['<pad>', '<s>', '</s>'],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / 'tokenizer.json'))
    settings = {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'bos_token': '<s>',
        'eos_token': '</s>',
        'pad_token': '<pad>',
        'clean_up_tokenization_spaces': False,
    }
    (path / 'tokenizer_config.json').write_text(json.dumps(settings, indent=2) + '\n', 'utf-8')
    return tokenizer.get_vocab_size()
