"""How Meta's LLaMA files hold a model: names, shards, and rotary pairs.

A model lies in one to eight files `consolidated.NN.pth`, one for each GPU that it was to run on.
Every matrix is cut, along its outputs or its inputs, into as many parts; norms are in all files.
LLaMA 1 and 2 cut the embedding by channels, 3 by tokens. Channels that are rotated together lie
side by side, in Hugging Face's files half a head apart. All this is views of mapped files: no
arithmetic happens, so a round trip is exact to the bit.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from belle_jax.families import Architecture
from belle_jax.weights.tensors import BLOCK, Planned, planned

# Computed from params.json. LLaMA 1 has one in every layer, LLaMA 2 one in all.
BUFFERS = re.compile(r'(layers\.\d+\.attention\.inner_attention\.)?rope\.freqs')
ROWS, COLUMNS = 0, 1


@dataclasses.dataclass(frozen=True)
class MetaTensor:
    """A tensor of a model."""

    meta: str  # its name in Meta's files
    name: str  # its name in Hugging Face's
    shape: tuple[int, ...]  # of the whole
    axis: int | None = None  # along which shards cut it; None: each has all of it
    heads: int = 0  # how many heads of rotary pairs its rows are; 0 where they are none

    def part_shape(self, shards: int) -> tuple[int, ...]:
        """Shape of what one of that many files has."""
        return tuple(n // shards if i == self.axis else n for i, n in enumerate(self.shape))


def table(model: Architecture, embedding_axis: int) -> list[MetaTensor]:
    """All tensors of a model, in the order of Hugging Face's files."""
    d, v, f = model.embed, model.vocab_size, model.mlp
    q, k = model.q_heads * model.head_dim, model.kv_heads * model.head_dim
    entries = [
        MetaTensor('tok_embeddings.weight', 'model.embed_tokens.weight', (v, d), embedding_axis),
    ]
    for i in range(model.layers):
        meta, name = f'layers.{i}', f'model.layers.{i}'
        for theirs, ours, shape, axis, heads in (
            ('attention_norm', 'input_layernorm', (d,), None, 0),
            ('attention.wq', 'self_attn.q_proj', (q, d), ROWS, model.q_heads),
            ('attention.wk', 'self_attn.k_proj', (k, d), ROWS, model.kv_heads),
            ('attention.wv', 'self_attn.v_proj', (k, d), ROWS, 0),
            ('attention.wo', 'self_attn.o_proj', (d, q), COLUMNS, 0),
            ('ffn_norm', 'post_attention_layernorm', (d,), None, 0),
            ('feed_forward.w1', 'mlp.gate_proj', (f, d), ROWS, 0),
            ('feed_forward.w3', 'mlp.up_proj', (f, d), ROWS, 0),
            ('feed_forward.w2', 'mlp.down_proj', (d, f), COLUMNS, 0),
        ):
            entries.append(
                MetaTensor(f'{meta}.{theirs}.weight', f'{name}.{ours}.weight', shape, axis, heads)
            )
    entries.append(MetaTensor('norm.weight', 'model.norm.weight', (d,)))
    return [*entries, MetaTensor('output.weight', 'lm_head.weight', (v, d), ROWS)]


def check_divides(model: Architecture, shards: int, remedy: str) -> None:
    """Refuses a number of files that cannot share a dimension evenly.

    Raises:
        ValueError: naming the dimension; the remedy is the end of the message.
    """
    for what, count in (
        ('query heads', model.q_heads),
        ('key-value heads', model.kv_heads),
        ('MLP channels', model.mlp),
        ('tokens', model.vocab_size),
    ):
        if shards < 1 or count % shards:
            raise ValueError(
                f"{shards} files cannot share the model's {count} {what} evenly, as Meta's files "
                f'do. {remedy}'
            )


def joined(entry: MetaTensor, parts: Sequence[np.ndarray]) -> Planned:
    """A tensor for Hugging Face's files, read by rows from what each of Meta's has of it, in order.

    A head of rotary pairs counts as one row.
    """
    parts = parts[:1] if entry.axis is None else parts
    if entry.heads:
        parts = [_half_a_head_apart(part, entry.heads // len(parts)) for part in parts]
    size = len(parts[0])
    total = size if entry.axis == COLUMNS else size * len(parts)
    step = max(1, BLOCK * total // max(sum(part.nbytes for part in parts), 1))

    def pieces(start: int, stop: int) -> list[np.ndarray]:
        if entry.axis == COLUMNS:
            return [part[start:stop] for part in parts]
        own = (
            part[max(start - i * size, 0) : max(stop - i * size, 0)] for i, part in enumerate(parts)
        )
        return [piece for piece in own if len(piece)]

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, total, step):
            found = pieces(start, start + step)
            yield found[0] if len(found) == 1 else np.concatenate(found, axis=entry.axis)

    return Planned(entry.name, entry.shape, parts[0].dtype, blocks)


def part(entry: MetaTensor, whole: np.ndarray, index: int, shards: int) -> Planned:
    """What one of Meta's files, counted from 0, has of a tensor in Hugging Face's layout."""
    if entry.heads:
        whole = _side_by_side(whole, entry.heads)
    if entry.axis is not None:
        size = whole.shape[entry.axis] // shards
        span = slice(index * size, (index + 1) * size)
        whole = whole[:, span] if entry.axis == COLUMNS else whole[span]
    return dataclasses.replace(planned(entry.meta, whole), shape=entry.part_shape(shards))


def _half_a_head_apart(rows: np.ndarray, heads: int) -> np.ndarray:
    """[heads * head_dim, dim] with pairs side by side -> [heads, 2, head_dim / 2, dim]."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).transpose(0, 2, 1, 3)


def _side_by_side(rows: np.ndarray, heads: int) -> np.ndarray:
    """[heads * head_dim, dim] with pairs half a head apart -> [heads, head_dim / 2, 2, dim]."""
    return rows.reshape(heads, 2, -1, rows.shape[1]).transpose(0, 2, 1, 3)
