"""Meta's `params.json`: which model it means, and back.

It says less than a `config.json`: the context length, the special tokens, whether the tables are
tied and what the scaling of rotary positions is are known to Meta's code alone, and differ by
release.
"""

import dataclasses
from typing import Any

from belle_jax.families import Architecture, Rope

FILE = 'params.json'
KNOWN = frozenset(
    'dim n_layers n_heads n_kv_heads norm_eps vocab_size rope_theta use_scaled_rope multiple_of '
    'ffn_dim_multiplier head_dim max_batch_size max_seq_len model_parallel_size'.split()
)
SCALED = Rope('llama3', 500_000.0, 8.0, 1.0, 4.0, 8192)
"""What `use_scaled_rope` means in Llama 3.1; the tied models of 3.2 have factor 32, which
`params.json` does not say and Meta's own code once overlooked."""
TIED_FACTOR = 32.0
# multiple_of and ffn_dim_multiplier as published for 7B to 65B, 70B, 8B, 405B, 1B and 3B.
WIDTHS = ((256, None), (4096, 1.3), (1024, 1.3), (4096, 1.2), (256, 1.5), (256, 1.0))


@dataclasses.dataclass(frozen=True)
class Params:
    """What `params.json` says; None where it leaves a field out."""

    dim: int
    layers: int
    heads: int
    norm_eps: float
    kv_heads: int | None
    vocab_size: int | None
    theta: float | None
    scaled: bool


@dataclasses.dataclass(frozen=True)
class Words:
    """What the tokenizer beside the weights decides."""

    by_rank: bool  # whether it is LLaMA 3's, not SentencePiece
    bos_id: int | None  # begins a text
    eos_ids: tuple[int, ...]  # end an answer


def parse(values: dict[str, Any], path: str) -> Params:
    """What the values of a `params.json` say; the path is named in errors.

    Raises:
        ValueError: a field is missing or malformed, or asks for something that is not built here;
            it is named.
    """
    for name in sorted(values.keys() - KNOWN):
        if values[name]:
            raise ValueError(
                f'{path}: {name}={values[name]!r} asks for more than a plain LLaMA, which is all '
                'that is read here. Take the original, unquantised model.'
            )

    def number(name: str, kind: type, default: Any = None, needed: bool = False) -> Any:
        value = values.get(name, default)
        if value is None and not needed:
            return None
        fits = isinstance(value, (int, float) if kind is float else int)
        if not fits or isinstance(value, bool) or not 0 < value < 2**63:
            raise ValueError(
                f'{path}: {name}={value!r:.80} must be a positive number. Download the file again, '
                'or take it from a model of the same size.'
            )
        return kind(value)

    vocab, scaled = values.get('vocab_size'), values.get('use_scaled_rope')
    if scaled not in (None, True, False):
        raise ValueError(f'{path}: use_scaled_rope={scaled!r:.80} must be true or false.')
    params = Params(
        dim=number('dim', int, needed=True),
        layers=number('n_layers', int, needed=True),
        heads=number('n_heads', int, needed=True),
        norm_eps=number('norm_eps', float, needed=True),
        kv_heads=number('n_kv_heads', int),
        vocab_size=None if vocab == -1 else number('vocab_size', int),  # -1: the tokenizer's
        theta=number('rope_theta', float),
        scaled=bool(scaled),
    )
    for name, count, whole in (
        ('dim', params.dim, params.heads),
        ('n_heads', params.heads, params.kv_heads or 1),
    ):
        if count % whole:
            raise ValueError(f'{path}: {name}={count} must be a multiple of the {whole} heads.')
    if number('head_dim', int) not in (None, params.dim // params.heads):
        raise ValueError(
            f"{path}: head_dim={values['head_dim']} is not dim / n_heads, which Meta's code takes."
        )
    return params


def architecture(
    params: Params, words: Words, *, vocab_size: int, mlp: int, tied: bool, dtype: str
) -> tuple[Architecture, str]:
    """The model that the files mean, and why it has its context length.

    Args:
        params: What `params.json` says.
        words: What the tokenizer says.
        vocab_size: Rows of the embedding.
        mlp: Width of the MLP, from the shapes.
        tied: Whether both tables are the same.
        dtype: Of the files.
    """
    theta = params.theta or (500_000.0 if words.by_rank else 10_000.0)
    rope = Rope(theta=theta)
    if params.scaled:
        factor = TIED_FACTOR if tied else SCALED.factor
        rope = dataclasses.replace(SCALED, theta=theta, factor=factor)
    context, reason = _context(params, words, dtype)
    return Architecture(
        vocab_size=vocab_size,
        embed=params.dim,
        layers=params.layers,
        q_heads=params.heads,
        kv_heads=params.kv_heads or params.heads,
        mlp=mlp,
        max_position=context,
        norm_eps=params.norm_eps,
        tied=tied,
        rope=rope,
        bos_id=words.bos_id,
        eos_ids=words.eos_ids,
    ), reason


def _context(params: Params, words: Words, dtype: str) -> tuple[int, str]:
    """Tokens of context, which no file gives, and from what they were told.

    LLaMA 1 was published in float16, LLaMA 2 in bfloat16. norm_eps alone does not tell them apart:
    LLaMA 2 7B chat came with 1e-6 at first.
    """
    if params.scaled:
        return 131_072, 'Llama 3.1 or later, by use_scaled_rope'
    if words.by_rank:
        return 8192, 'Llama 3, by its tokenizer'
    if params.theta not in (None, 10_000.0):
        return 16_384, f'Code Llama, by rope_theta={params.theta:g}'
    if dtype == 'bfloat16':
        return 4096, 'Llama 2, by bfloat16'
    if params.kv_heads not in (None, params.heads):
        return 4096, 'Llama 2, by n_kv_heads'
    if params.norm_eps > 5e-6 and params.dim <= 5120:  # larger ones of Llama 2 have n_kv_heads
        return 4096, f'Llama 2, by norm_eps={params.norm_eps:g}'
    return 2048, f'LLaMA 1, by {dtype} and norm_eps={params.norm_eps:g}'


def values(model: Architecture, by_rank: bool) -> dict[str, Any]:
    """The `params.json` of a model; fields that LLaMA 1's code does not know only where needed.

    Args:
        model: Any.
        by_rank: Whether its tokenizer is LLaMA 3's, whose code has another default of rope_theta.
    Raises:
        ValueError: Meta's code has no such model; the reason is named.
    """
    _check_sayable(model)
    multiple_of, multiplier = _width(model.embed, model.mlp)
    said: dict[str, Any] = {
        'dim': model.embed,
        'n_layers': model.layers,
        'n_heads': model.q_heads,
        'vocab_size': model.vocab_size,
        'multiple_of': multiple_of,
        'norm_eps': model.norm_eps,
    }
    if model.kv_heads != model.q_heads:
        said['n_kv_heads'] = model.kv_heads
    if multiplier is not None:
        said['ffn_dim_multiplier'] = multiplier
    if by_rank or model.rope.theta != 10_000.0:
        said['rope_theta'] = model.rope.theta
    if model.rope.kind == 'llama3':
        said['use_scaled_rope'] = True
    return said


def _check_sayable(model: Architecture) -> None:
    rope = model.rope
    factor = TIED_FACTOR if model.tied else SCALED.factor
    scaled = dataclasses.replace(SCALED, theta=rope.theta, factor=factor)
    for fault, what in (
        (model.family != 'llama', f'a {model.family} model'),
        (model.attention_bias or model.mlp_bias, 'biases'),
        (model.activation != 'silu', f'the activation {model.activation}'),
        (
            model.head_dim * model.q_heads != model.embed,
            f'{model.q_heads} heads of {model.head_dim} channels in {model.embed}',
        ),
        (rope.kind in ('linear', 'dynamic'), f'{rope.kind} scaling of rotary positions'),
        (
            rope.kind == 'llama3' and rope != scaled,
            f'rotary positions scaled by {rope} (Meta scales by {scaled})',
        ),
    ):
        if fault:
            raise ValueError(
                f"--source has {what}, which Meta's files cannot say: only plain LLaMA models are "
                'written in their layout. Use the Hugging Face directory as it is.'
            )


def mlp_width(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Width of the MLP as Meta's code computes it.

    Source: meta-llama/llama3, llama/model.py, FeedForward.
    """
    hidden = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * -(-hidden // multiple_of)


def _width(dim: int, mlp: int) -> tuple[int, float | None]:
    """multiple_of and ffn_dim_multiplier that give a width; published ones where they do."""
    plain = [(2**power, None) for power in range(12, -1, -1)]
    # Any width at all: half a channel more, for the product is cut down to a whole number.
    exact = (1, (mlp + 0.5) / int(2 * (4 * dim) / 3))
    return next(pair for pair in (*WIDTHS, *plain, exact) if mlp_width(dim, *pair) == mlp)
