"""The tokenizer beside Meta's weights: `tokenizer.model`, of either kind, for Hugging Face's."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer, processors

from belle_jax.data import sentencepiece_model, tiktoken_model
from belle_jax.formats.meta.params import Words
from belle_jax.json_files import write_json

FILE = 'tokenizer.model'
BOS, EOS = '<s>', '</s>'


def find(directory: Path) -> Path:
    """The tokenizer of a model, there or, for LLaMA 1, a directory above; else a ValueError."""
    for path in (directory / FILE, directory.absolute().parent / FILE):
        if path.is_file():
            return path
    raise ValueError(
        f'{directory / FILE} is missing, and it is not in the directory above either: without it '
        'no text can be read. Copy it there.'
    )


def read(path: Path, scaled: bool) -> tuple[Tokenizer, Words]:
    """Reads a tokenizer of either kind, which begins a text with BOS, and its ids.

    Args:
        path: `tokenizer.model`.
        scaled: Whether the model has Llama 3.1's rotary positions: its tokenizer has more names.
    Raises:
        ValueError: it is damaged, or has no BOS and EOS.
    """
    if tiktoken_model.is_ranks(path):
        ranks = tiktoken_model.read_ranks(path)
        release = '3.1' if scaled else '3'
        # Meta's own code stops at all of them, in base and instruct models alike.
        stops = tuple(len(ranks) + index for index in tiktoken_model.STOPS[release])
        return tiktoken_model.build(ranks, release), Words(True, len(ranks), stops)
    tokenizer = sentencepiece_model.build(sentencepiece_model.read_model(path))
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    if bos is None or eos is None:
        raise ValueError(f"{path} has no {BOS} and {EOS}: it is not a LLaMA's. Copy the right one.")
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f'{BOS} $A', pair=f'{BOS} $A {BOS}:1 $B:1', special_tokens=[(BOS, bos)]
    )
    return tokenizer, Words(False, bos, (eos,))


def check_size(path: Path, tokenizer: Tokenizer, words: Words, vocab_size: int) -> None:
    """Whether a tokenizer fits an embedding.

    Raises:
        ValueError: it has more tokens than the embedding has rows, or, where special tokens are
            counted from the end of the ranks, fewer.
    """
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocab_size or (words.by_rank and size != vocab_size):
        raise ValueError(
            f'{path} has {size:,} tokens and the embedding {vocab_size:,} rows: it belongs to '
            'another model, or is truncated. Copy the right one.'
        )


def write(path: Path, tokenizer: Tokenizer, target: Path) -> None:
    """Writes the files with which transformers and this package say the same ids.

    Meta's own, at `path`, is kept as it is.
    """
    shutil.copyfile(path, target / FILE)
    tokenizer.save(str(target / 'tokenizer.json'), pretty=False)
    by_rank = tiktoken_model.is_ranks(path)
    settings = {
        # A class that takes tokenizer.json as it is: LlamaTokenizer of transformers 5 rebuilds it,
        # and drops the space with which a text begins.
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'add_bos_token': True,
        'add_eos_token': False,
        'bos_token': tiktoken_model.BOS if by_rank else BOS,
        'eos_token': tiktoken_model.EOS if by_rank else EOS,
        'clean_up_tokenization_spaces': False,
        'model_input_names': ['input_ids', 'attention_mask'],
    }
    if not by_rank:
        settings['unk_token'] = '<unk>'
    write_json(target / 'tokenizer_config.json', settings)
