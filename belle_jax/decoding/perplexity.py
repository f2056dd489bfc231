"""Perplexity of a text, counted as the papers on quantisation count it.

A long text is cut into windows of `seq_len` tokens and the rest is dropped; in each window every
token but the first is predicted from those before it. Perplexity is the exponential of the mean
loss. It depends on the window: only figures of the same `seq_len` and tokenizer compare.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from belle_jax import families, models, sharding
from belle_jax.data import corpora, marked_text
from belle_jax.decoding import assistant
from belle_jax.decoding.batch import batch_rows, mesh_of
from belle_jax.progress import Progress

SEQ_LEN = 2048
"""Tokens of a window, in most of the papers."""


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """How well a model foretells a text.

    Attributes:
        loss: Mean over the tokens that were predicted, nats.
        tokens: How many those are.
        windows: How many windows they stand in.
        seq_len: Tokens of a window.
        stride: Tokens from the beginning of a window to that of the next.
    """

    loss: float
    tokens: int
    windows: int
    seq_len: int
    stride: int

    @property
    def value(self) -> float:
        """The perplexity."""
        return math.exp(self.loss)


def of_texts(
    path: str,
    sources: Sequence[str],
    seq_len: int | None = None,
    stride: int = 0,
    *,
    dtype: str = 'float32',
    devices: int = 1,
    batch_size: int = 4,
    adapter: str = '',
) -> list[dict[str, Any]]:
    """Measures a model of a directory on texts, each by itself, as JSON values.

    Models with other tokenizers compare by bits a character, not by perplexity.

    Args:
        path: Of the model, as in `belle_jax.load`.
        sources: wikitext2, ptb, c4, or files.
        seq_len: Tokens of a window; None: `SEQ_LEN`, or the model's context, which is then told.
        stride: As in `perplexity`.
        dtype: Of weights and activations.
        devices: That share each weight.
        batch_size: Windows at a time.
        adapter: Of the model, as in `belle_jax.load`.
    Raises:
        ValueError: model or text cannot be used.
    """
    texts = {source: corpora.text(source) for source in sources}
    voice = assistant.voice(path)
    decoder = assistant.decoder(path, voice, dtype=dtype, devices=devices, adapter=adapter)
    if seq_len is None and (seq_len := window(decoder)) < SEQ_LEN:
        print(f"--seq_len={seq_len}: the model's context.", file=sys.stderr)
    figures = []
    for source, text in texts.items():
        tokens = marked_text.encode(voice.tokenizer, text)
        bits = len(tokens) / math.log(2)
        if corpus := corpora.CORPORA.get(source):
            tokens = tokens[: corpus.windows and corpus.windows * seq_len]
        found = perplexity(decoder, tokens, seq_len, stride, batch_size=batch_size)
        about = {'model': path, 'step': voice.step, 'text': source, 'dtype': dtype}
        about |= {'adapter': adapter} if adapter else {}
        about |= {'perplexity': found.value, **dataclasses.asdict(found)}
        about['bits_per_byte'] = found.loss * bits / len(text.encode())
        about['bits_per_character'] = found.loss * bits / len(text)
        figures.append(about)
    return figures


def sentences(figures: Sequence[Mapping[str, Any]]) -> str:
    """What `of_texts` found, a line for each text."""
    return '\n'.join(
        (f'{found["text"]}: ' if len(figures) > 1 else '')
        + f'perplexity {found["perplexity"]:,.4f} ({found["loss"]:.5f} nats a token, '
        f'{found["bits_per_byte"]:.4f} bits a byte, {found["bits_per_character"]:.4f} a character) '
        f'on {found["tokens"]:,} tokens in {found["windows"]:,} windows of {found["seq_len"]:,}'
        for found in figures
    )


def perplexity(
    model: models.Decoder,
    tokens: Sequence[int] | np.ndarray,
    seq_len: int = SEQ_LEN,
    stride: int = 0,
    *,
    batch_size: int = 4,
) -> Perplexity:
    """Measures a model on a text.

    With a stride of 2 and windows of 4, tokens a to g: `abcd` foretells b, c, d; `cdef` foretells e
    and f; `defg` foretells g. Without a stride `abcd` is all, for `efg` is not a whole window.

    Args:
        model: Any decoder; on a mesh where its parameters are.
        tokens: int [N], the text.
        seq_len: Tokens of a window, at least 2.
        stride: Below seq_len: windows overlap, and each token but the text's first is predicted
            once, from at least seq_len - stride tokens before it behind the first window. 0:
            windows stand side by side, and the first token of each is only read.
        batch_size: Windows at a time.
    Returns:
        The mean loss and what it was counted over.
    Raises:
        ValueError: the text is shorter than a window or has tokens that the model does not know,
            seq_len is beyond the model's context, stride is out of range, a loss is not finite.
    Source: Frantar et al., 2023 (GPTQ), the code's `opt_eval`; Press et al., 2021, for the stride.
    """
    tokens = np.asarray(tokens, np.int64)
    _check(model, tokens, seq_len, stride)
    starts = np.arange(0, len(tokens) - seq_len + 1, stride or seq_len)
    counted = np.full(len(starts), stride or seq_len - 1)  # of each window, at its end
    counted[0] = seq_len - 1
    if stride and (rest := len(tokens) - seq_len - starts[-1]):
        starts, counted = np.append(starts, len(tokens) - seq_len), np.append(counted, rest)
    graphdef, params = nnx.split(model)
    progress, sums = Progress('measuring perplexity', 'windows', len(starts)), []
    with mesh_of(models.parameters(model)):
        rows = batch_rows(min(batch_size, len(starts)), sharding.shards('batch'))
        for at in range(0, len(starts), rows):
            batch = np.zeros((rows, seq_len), np.int32)
            for row, start in enumerate(starts[at : at + rows]):
                batch[row] = tokens[start : start + seq_len]
            losses = np.asarray(_losses(graphdef, params, batch), np.float64)
            ends = zip(losses, counted[at : at + rows])
            sums += [row[seq_len - 1 - count : seq_len - 1].sum() for row, count in ends]
            if (broken := np.flatnonzero(~np.isfinite(sums))).size:
                raise ValueError(
                    f'the loss of the window at token {starts[broken[0]]:,} is not finite: the '
                    "model's weights are damaged, or --dtype is too narrow for them."
                )
            progress.show(len(sums), tokens=len(sums) * seq_len)
    progress.end(len(sums))
    total = int(counted.sum())
    return Perplexity(math.fsum(sums) / total, total, len(starts), seq_len, stride or seq_len)


def window(model: models.Decoder, seq_len: int = SEQ_LEN) -> int:
    """The longest window up to `seq_len` that the model can read."""
    limit = families.of(model.architecture).context_limit(model.architecture)
    return seq_len if limit is None else min(seq_len, limit)


def _check(model: models.Decoder, tokens: np.ndarray, seq_len: int, stride: int) -> None:
    """Refuses what cannot be measured."""
    if seq_len < 2:
        raise ValueError(f'--seq_len={seq_len}: a window needs a token to foretell: at least 2.')
    if not 0 <= stride < seq_len:
        raise ValueError(
            f'--stride={stride} must be 0, or below --seq_len={seq_len}: what stands before a '
            'token is what the windows share.'
        )
    if (limit := window(model, seq_len)) < seq_len:
        raise ValueError(
            f'--seq_len={seq_len} is more than the {limit} tokens that the model reads: set '
            f'--seq_len={limit}.'
        )
    if len(tokens) < seq_len:
        raise ValueError(
            f'the text has {len(tokens):,} tokens, fewer than a window of --seq_len={seq_len}: '
            'give a longer text or a smaller --seq_len.'
        )
    known = model.architecture.vocab_size
    if not 0 <= tokens.min() <= tokens.max() < known:
        raise ValueError(
            f'the text has token {tokens.max()} and the model knows {known:,}: the tokenizer is '
            "another model's."
        )


@functools.partial(jax.jit, static_argnames='graphdef')
def _losses(graphdef, params, tokens_bt):
    """float32 [B, T], of the token that follows each; of the last one it means nothing."""
    model = nnx.merge(graphdef, params)
    # Whole windows, for kernels that want lengths of 128.
    return model.token_losses(model.hidden(tokens_bt), jnp.roll(tokens_bt, -1, axis=1))
