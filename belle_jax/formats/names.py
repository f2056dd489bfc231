"""One name table per family: which published tensor is which of our parameters, and how it is laid
out.

Ours are stacked over layers and keep heads as an axis of their own; products are written inputs
first. Theirs are one tensor a layer, outputs first, heads flattened. A row of the table folds their
tensor into heads and says in which order our axes come; both directions, and any slice of them,
follow from that alone. No arithmetic happens, so a round trip is exact to the bit.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from belle_jax.architecture import Architecture
from belle_jax.weights.tensors import Index, Stored


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        ours: Name of our parameter.
        theirs: Name of the published tensor, with `{layer}` where there is one for each layer.
        fold: Their shape with flattened axes taken apart.
        order: Our axis k (after the layers) is their folded axis order[k].
        inputs: How many of the last folded axes are their second axis; 0 for vectors.
        layers: How many layers ours is stacked over; 0 where it is not.
        padded: Rows of ours where it has more than theirs (a table padded with zeros); or 0.
    """

    ours: str
    theirs: str
    fold: tuple[int, ...]
    order: tuple[int, ...]
    inputs: int = 0
    layers: int = 0
    padded: int = 0

    @property
    def their_shape(self) -> tuple[int, ...]:
        """Shape of one published tensor."""
        if not self.inputs:
            return (math.prod(self.fold),)
        split = len(self.fold) - self.inputs
        return math.prod(self.fold[:split]), math.prod(self.fold[split:])

    @property
    def our_shape(self) -> tuple[int, ...]:
        """Shape of our parameter, with layers and padding."""
        one = [self.fold[axis] for axis in self.order]
        if self.padded:
            one[0] = self.padded
        return (self.layers, *one) if self.layers else tuple(one)

    @property
    def their_names(self) -> list[str]:
        """The published tensors, one for each layer where ours is stacked."""
        return [self.theirs.format(layer=i) for i in range(self.layers)] or [self.theirs]

    def take(self, tensors: Sequence[np.ndarray], index: Index, dtype: np.dtype) -> np.ndarray:
        """A slice of our parameter from their tensors.

        Args:
            tensors: Their tensors, one for each of `their_names`; only what the slice needs is
                read.
            index: Slices of `our_shape`, as `jax.make_array_from_callback` gives them.
            dtype: Of the result.
        """
        shape = self.our_shape
        ranges = [range(*s.indices(n)) for s, n in zip(index, shape, strict=True)]
        out = np.empty([len(r) for r in ranges], dtype)
        slabs = out if self.layers else out[None]
        for slab, layer in zip(slabs, ranges[0] if self.layers else [0], strict=True):
            view = tensors[layer].reshape(self.fold).transpose(self.order)
            view = view[tuple(index[1:] if self.layers else index)]
            # First the order, then the dtype: four times faster than both in one pass.
            slab[: len(view)] = np.ascontiguousarray(view)
            slab[len(view) :] = 0  # padding of a table
        return out

    def give(
        self, read: Callable[[Index], np.ndarray], layer: int, start: int, stop: int
    ) -> np.ndarray:
        """A block of rows of one of their tensors from ours.

        Args:
            read: Reads a slice of our parameter.
            layer: Which of `their_names`.
            start: First row of the block, counted along the first folded axis (whole heads).
            stop: Row after the last.
        Returns:
            The rows in their layout.
        """
        index = [slice(0, self.fold[axis]) for axis in self.order]
        index[self.order.index(0)] = slice(start, stop)
        block = read(tuple([slice(layer, layer + 1), *index] if self.layers else index))
        block = block[0] if self.layers else block
        inverse = [self.order.index(axis) for axis in range(len(self.fold))]
        return np.ascontiguousarray(block.transpose(inverse)).reshape(-1, *self.their_shape[1:])


def table(architecture: Architecture) -> list[Entry]:
    """All rows for a model, in the order in which its published files have them."""
    return (_bloom if architecture.family == 'bloom' else _llama)(architecture)


def _llama(a: Architecture) -> list[Entry]:
    d, n, k, h, f = a.embed, a.q_heads, a.kv_heads, a.head_dim, a.mlp
    ours, theirs = 'blocks.0.', 'model.layers.{layer}.'
    rows = [_table('embed.table', 'model.embed_tokens.weight', a)]
    for our, their, outputs, inputs, biased in (
        ('attention.query', 'self_attn.q_proj', (n, h), (d,), a.attention_bias),
        ('attention.key', 'self_attn.k_proj', (k, h), (d,), a.attention_bias),
        ('attention.value', 'self_attn.v_proj', (k, h), (d,), a.attention_bias),
        ('attention.out', 'self_attn.o_proj', (d,), (n, h), a.attention_bias),
        ('mlp.gate', 'mlp.gate_proj', (f,), (d,), a.mlp_bias),
        ('mlp.up', 'mlp.up_proj', (f,), (d,), a.mlp_bias),
        ('mlp.down', 'mlp.down_proj', (d,), (f,), a.mlp_bias),
    ):
        rows += _linear(ours + our, theirs + their, outputs, inputs, a.layers, biased)
    for our, their in (
        ('attention_norm', 'input_layernorm'),
        ('mlp_norm', 'post_attention_layernorm'),
    ):
        rows.append(_vector(f'{ours}{our}.scale', f'{theirs}{their}.weight', (d,), a.layers))
    rows.append(_vector('final_norm.scale', 'model.norm.weight', (d,)))
    return rows if a.tied else [*rows, _table('head.table', 'lm_head.weight', a)]


def _bloom(a: Architecture) -> list[Entry]:
    d, n, h, f = a.embed, a.q_heads, a.head_dim, a.mlp
    ours, theirs = 'blocks.0.', 'transformer.h.{layer}.'
    rows = [_table('embed.table', 'transformer.word_embeddings.weight', a)]
    rows += _norm('embed_norm', 'transformer.word_embeddings_layernorm', d)
    for our, their in (
        ('attention_norm', 'input_layernorm'),
        ('mlp_norm', 'post_attention_layernorm'),
    ):
        rows += _norm(ours + our, theirs + their, d, a.layers)
    for our, their, outputs, inputs in (
        # The fused product has its rows interleaved [heads, 3, head_dim], and so it stays.
        ('attention.qkv', 'self_attention.query_key_value', (n, 3, h), (d,)),
        ('attention.out', 'self_attention.dense', (d,), (n, h)),
        ('mlp.up', 'mlp.dense_h_to_4h', (f,), (d,)),
        ('mlp.down', 'mlp.dense_4h_to_h', (d,), (f,)),
    ):
        rows += _linear(ours + our, theirs + their, outputs, inputs, a.layers, True)
    rows += _norm('final_norm', 'transformer.ln_f', d)
    return rows if a.tied else [*rows, _table('head.table', 'lm_head.weight', a)]


def _table(ours: str, theirs: str, a: Architecture) -> Entry:
    return Entry(ours, theirs, (a.vocab_size, a.embed), (0, 1), inputs=1, padded=a.padded_vocab)


def _vector(ours: str, theirs: str, fold: tuple[int, ...], layers: int = 0) -> Entry:
    return Entry(ours, theirs, fold, tuple(range(len(fold))), layers=layers)


def _norm(ours: str, theirs: str, size: int, layers: int = 0) -> list[Entry]:
    return [
        _vector(f'{ours}.{our}', f'{theirs}.{their}', (size,), layers)
        for our, their in (('scale', 'weight'), ('bias', 'bias'))
    ]


def _linear(
    ours: str,
    theirs: str,
    outputs: tuple[int, ...],
    inputs: tuple[int, ...],
    layers: int,
    biased: bool,
) -> list[Entry]:
    axes = range(len(outputs) + len(inputs))
    order = (*axes[len(outputs) :], *axes[: len(outputs)])  # ours: inputs first
    kernel = Entry(
        f'{ours}.kernel', f'{theirs}.weight', (*outputs, *inputs), order, len(inputs), layers
    )
    bias = _vector(f'{ours}.bias', f'{theirs}.bias', outputs, layers)
    return [kernel, bias] if biased else [kernel]


# --- what published files hold --------------------------------------------------------------------

PREFIX = {'llama': 'model.', 'bloom': 'transformer.'}
HEAD = 'lm_head.weight'
BUFFERS = {
    # Computed from the configuration; transformers before 4.32 saved them with the weights.
    'llama': re.compile(r'(layers\.\d+\.self_attn\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)'),
    # Causal masks, as GPT-2's code has them.
    'bloom': re.compile(r'h\.\d+\.(self_attention|attn)\.(masked_)?bias'),
}


def match(architecture: Architecture, stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Finds every tensor of the table among those of a model's files, and accounts for all others.

    Args:
        architecture: The model.
        stored: The files' tensors by name, with or without the family's prefix.
    Returns:
        The tensors by the table's names.
    Raises:
        ValueError: a tensor is missing, has another shape, or is left over; it is named with its
            file.
    """
    entries = table(architecture)
    prefix, buffers = PREFIX[architecture.family], BUFFERS[architecture.family]
    wanted = {name: entry for entry in entries for name in entry.their_names}
    found: dict[str, Stored] = {}
    left: list[Stored] = []
    for name, tensor in stored.items():
        bare = name.removeprefix(prefix)
        full = name if name == HEAD else prefix + bare
        if full in wanted and full not in found:
            found[full] = tensor
        elif not buffers.fullmatch(bare):
            left.append(tensor)
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            f'{missing[0]} is missing from {_files(stored.values())}'
            + (f', and {len(missing) - 1} other tensors' if len(missing) > 1 else '')
            + ': the configuration asks for it. Complete the download, or correct config.json.'
        )
    for name, tensor in found.items():
        shape = wanted[name].their_shape
        if tensor.array.shape != shape:
            raise ValueError(
                f'{tensor.place} has shape {list(tensor.array.shape)}, but config.json asks for '
                f'{list(shape)}. Correct config.json, or take the weights that belong to it.'
            )
        if tensor.array.dtype.kind not in 'fV':  # V: bfloat16
            raise ValueError(
                f'{tensor.place} holds {tensor.array.dtype} numbers, not floating-point weights: '
                'quantised models are not read here.'
            )
    for tensor in left:
        if tensor.name == HEAD and architecture.tied:
            _check_tied(tensor, found[entries[0].theirs])
        else:
            raise ValueError(
                f'{tensor.place} belongs to no part of a {architecture.family} model with this '
                'config.json: loading the rest would give another model than was saved.'
            )
    return found


def _check_tied(head: Stored, table: Stored) -> None:
    """A tied model may store its output table a second time; then both are the same."""
    same = head.array.shape == table.array.shape and head.array.dtype == table.array.dtype
    rows = 4096  # compared in blocks: two tables of 250,880 rows are gigabytes
    for start in range(0, len(table.array) if same else 0, rows):
        block = slice(start, start + rows)
        # As bytes: a NaN equals itself.
        same = same and head.array[block].tobytes() == table.array[block].tobytes()
    if not same:
        raise ValueError(
            f'{head.place} differs from {table.name}, although config.json ties them: set '
            '"tie_word_embeddings": false there if the model has an output table of its own.'
        )


def _files(tensors: Iterable[Stored]) -> str:
    names = sorted({str(t.file) for t in tensors})
    return names[0] + (f' and {len(names) - 1} other files' if len(names) > 1 else '')
