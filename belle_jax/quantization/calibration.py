"""What a model reads while it is quantised, and what it is measured on before and after."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from belle_jax.data import corpora, marked_text
from belle_jax.data.record_reader import RecordReader
from belle_jax.data.templates import Template
from belle_jax.data.tokenizer import Tokenizer

HELD = 0.1
"""Of one's own file, at its end: what the model is measured on."""


class Calibration(NamedTuple):
    """Samples of text."""

    tokens: np.ndarray  # int32 [N, T]
    mask: np.ndarray  # bool [N, T], False where there is no text any more
    held: np.ndarray  # int32 [M, T], other windows

    @property
    def digest(self) -> str:
        """SHA-256 of what is read and measured on, hex."""
        state = hashlib.sha256(np.packbits(self.mask).tobytes())
        for tokens in (self.tokens, self.held):
            state.update(tokens.astype('<i4').tobytes())
        return state.hexdigest()


def read(
    source: str,
    tokenizer: Tokenizer,
    *,
    template: str = '',
    samples: int = 128,
    seq_len: int = 2048,
    held: int = 32,
    seed: int = 0,
) -> Calibration:
    """Samples from a source.

    Args:
        source: A text's name or file, as `corpora.text` takes it; with a template a file of rows in
            any layout that training reads.
        tokenizer: The model's.
        template: Name of a chat template; '' reads the source as one text.
        samples: N.
        seq_len: T in tokens; conversations are cut there.
        held: How many windows are held out at most. Of a named text they are its evaluation split;
            of a file they are of its last tenth.
        seed: Decides which samples.
    Raises:
        ValueError: the source cannot be read, or is too short.
    """
    rng = np.random.default_rng(seed)
    if template:
        style = Template(template, tokenizer)
        written = RecordReader(source).written(lambda record: style.encode(record.messages)[0])
        rows = [ids for _, ids in written]
        own = len(rows) - int(HELD * len(rows))
        chosen = _conversations(rows[:own], samples, seq_len, rng, source)
        rest = np.asarray([token for row in rows[own:] for token in row], np.int32)
    else:
        tokens = _tokens(tokenizer, corpora.text(source, 'calibration'))
        if source in corpora.CORPORA:
            rest = _tokens(tokenizer, corpora.text(source, 'evaluation')) if held else tokens[:0]
        else:
            own = len(tokens) - int(HELD * len(tokens))
            tokens, rest = tokens[:own], tokens[own:]
        chosen = _windows(tokens, samples, seq_len, rng, source)
    length = chosen[0].shape[1]
    count = min(held, len(rest) // length)
    return Calibration(*chosen, rest[: count * length].reshape(count, length))


def _tokens(tokenizer: Tokenizer, text: str) -> np.ndarray:
    return np.asarray(marked_text.encode(tokenizer, text), np.int32)


def _windows(tokens, samples: int, seq_len: int, rng: np.random.Generator, source: str):
    """Windows of a text that begin anywhere, as in the code of the GPTQ paper."""
    if len(tokens) <= seq_len:
        raise ValueError(
            f'--calibration={source} has {len(tokens):,} tokens to read, and one sample has '
            f'{seq_len:,}: give a longer text, or a smaller --seq_len.'
        )
    starts = rng.integers(0, len(tokens) - seq_len, samples)
    taken = np.stack([tokens[start : start + seq_len] for start in starts])
    return taken, np.ones(taken.shape, bool)


def _conversations(
    rows: Sequence[Sequence[int]],
    samples: int,
    seq_len: int,
    rng: np.random.Generator,
    source: str,
):
    """Rows, none of them twice, cut or filled up to one length."""
    if len(rows) < samples:
        raise ValueError(
            f'--calibration={source} has {len(rows):,} conversations to read: give a longer file, '
            f'or set --samples to at most {len(rows):,}.'
        )
    chosen = [rows[i][:seq_len] for i in rng.permutation(len(rows))[:samples]]
    longest = max(map(len, chosen))
    tokens, mask = np.zeros((samples, longest), np.int32), np.zeros((samples, longest), bool)
    for i, row in enumerate(chosen):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    return tokens, mask
