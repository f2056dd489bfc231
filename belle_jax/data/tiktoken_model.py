"""LLaMA 3's `tokenizer.model`: byte strings by rank, rebuilt as a `tokenizers` object.

It shares nothing but the name with the SentencePiece file of LLaMA 1 and 2, so files are told apart
by what is in them. Merges are not listed: two neighbours join when their union has a rank, the
lowest rank first, and a word that is in the list as a whole is one token.
"""

import base64
import pathlib
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
"""How a text is cut into words; tokens never reach across."""
BOS = '<|begin_of_text|>'
EOS = '<|end_of_text|>'
SPECIAL = 256
"""Ids that follow the ranks; all but a few are reserved."""
NAMED = {0: BOS, 1: EOS, 6: '<|start_header_id|>', 7: '<|end_header_id|>', 9: '<|eot_id|>'}
NAMED_SINCE_3_1 = {4: '<|finetune_right_pad_id|>', 8: '<|eom_id|>', 10: '<|python_tag|>'}
STOPS = {'3': (1, 9), '3.1': (1, 8, 9)}
"""Which of them end an answer: end of text, of message, of turn."""
LINE = 4096  # bytes of a line at most; the longest token of LLaMA 3's has 128
_LINE = re.compile(rb'([A-Za-z0-9+/]+={0,2}) (\d{1,9})\r?\n?')


def is_ranks(path: pathlib.Path) -> bool:
    """Whether a `tokenizer.model` is a list of ranks, not a SentencePiece model."""
    with path.open('rb') as file:
        return _LINE.fullmatch(file.readline(LINE)) is not None


def read_ranks(path: pathlib.Path) -> dict[bytes, int]:
    """Reads a list of ranks.

    Args:
        path: Lines of base64, a space and a rank.
    Returns:
        The rank of each byte string, 0 and up without a gap; all single bytes are among them.
    Raises:
        ValueError: a line is malformed or a rank is missing; it is named.
    Source: openai/tiktoken, tiktoken/load.py.
    """
    ranks: dict[bytes, int] = {}
    with path.open('rb') as file:
        lines = iter(lambda: file.readline(LINE), b'')
        for number, line in enumerate(lines, 1):
            found = _LINE.fullmatch(line)
            if not found or len(found[1]) % 4 or (token := base64.b64decode(found[1])) in ranks:
                raise ValueError(
                    f'{path}, line {number} is not a new byte string in base64 with its rank: the '
                    'file is damaged. Copy it again.'
                )
            ranks[token] = int(found[2])
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f'{path}: its ranks are not 0 to {len(ranks) - 1}. Copy the file again.')
    if missing := [value for value in range(256) if bytes([value]) not in ranks]:
        raise ValueError(
            f'{path} has no rank for the single byte {missing[0]}, which texts need: it is '
            'truncated or no tokenizer. Copy it again.'
        )
    return ranks


def special_tokens(release: str = '3.1') -> list[str]:
    """The names of the ids that follow the ranks.

    Args:
        release: '3', or '3.1' for what came later: three more of the reserved ids have names.
    Returns:
        256 names; the reserved ones are numbered in order.
    Source: meta-llama/llama3, llama/tokenizer.py; tokenizer.json as published with Llama 3.1. Later
        code of Meta's names two more of the reserved ids, which no published tokenizer.json does.
    """
    named = NAMED | (NAMED_SINCE_3_1 if release == '3.1' else {})
    reserved = iter(range(SPECIAL))
    return [named.get(i) or f'<|reserved_special_token_{next(reserved)}|>' for i in range(SPECIAL)]


def build(ranks: dict[bytes, int], release: str = '3.1') -> Tokenizer:
    """The `tokenizers` object that says what Meta's code says.

    Meta's code also cuts runs of more than 25,000 characters without a space (or of nothing else);
    that limit of another library is not repeated here.

    Args:
        ranks: What `read_ranks` returned.
        release: As for `special_tokens`.
    Returns:
        A tokenizer that begins a text with BOS where special tokens are added.
    """
    letters = byte_letters()
    spelled = {token: ''.join(letters[byte] for byte in token) for token in ranks}
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    merges = [(spelled[left], spelled[right]) for left, right in _merges(ranks)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLIT), 'isolated')
    bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytelevel])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in special_tokens(release)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f'{BOS} $A', pair=f'{BOS} $A {BOS}:1 $B:1', special_tokens=[(BOS, len(ranks))]
    )
    return tokenizer


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """All ways to join two tokens to a third, the lowest rank of the third first."""
    found = [
        (rank, ranks[token[:cut]], ranks[token[cut:]], token[:cut], token[cut:])
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def byte_letters() -> list[str]:
    """How byte-level tokenizers write each byte: itself where Latin-1 prints it, else from 256."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]
