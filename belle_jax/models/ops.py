"""Array functions that every family uses: products, norms, positions.

Legend: B batch, T query, S key, D embed, N query heads, K key-value heads, H head dim, F mlp,
V vocabulary.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from belle_jax.config import Rope

ACTIVATIONS = {
    'silu': jax.nn.silu,
    'gelu': lambda x: jax.nn.gelu(x, approximate=False),
    'gelu_tanh': lambda x: jax.nn.gelu(x, approximate=True),
    'relu': jax.nn.relu,
}


def project(equation: str, x: jax.Array, w: jax.Array) -> jax.Array:
    """A product of activations and a weight, in the activations' dtype.

    Leading batch dimensions of `x` are flattened first: XLA's CPU backend runs [B·T, D] products
    several times faster than [B, T, D] ones, forward and backward, and no backend minds.

    Args:
        equation: Like 'btd,dnh->btnh': two leading dimensions, the contracted ones, the weight's.
        x: Activations [B, T, ...].
        w: Weight; cast to the dtype of x.
    Returns:
        The product, in the dtype of x.
    """
    inputs, output = equation.split('->')
    x_axes, w_axes = inputs.split(',')
    contracted = ''.join(a for a in x_axes[2:])
    kept = output[2:]
    if w_axes not in (contracted + kept, kept + contracted) or output[:2] != x_axes[:2]:
        raise ValueError(f'{equation!r} is not a product of tokens and a weight.')
    n_in = math.prod(x.shape[2:])
    x_flat = x.reshape(-1, n_in)
    w = w.astype(x.dtype)
    if w_axes == contracted + kept:
        out, tail = x_flat @ w.reshape(n_in, -1), w.shape[len(contracted) :]
    else:
        out, tail = x_flat @ w.reshape(-1, n_in).T, w.shape[: len(kept)]
    return out.reshape(*x.shape[:2], *tail)


def rms_norm(x: jax.Array, scale_d: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm, in float32.

    Args:
        x: [..., D].
        scale_d: [D].
        eps: Added to the mean square.
    Returns:
        [..., D] in the dtype of x.
    Source: Zhang and Sennrich, 2019; the order of casts is LLaMA's.
    """
    x_32 = x.astype(jnp.float32)
    normed = x_32 * jax.lax.rsqrt(jnp.mean(x_32 * x_32, axis=-1, keepdims=True) + eps)
    return scale_d.astype(x.dtype) * normed.astype(x.dtype)


def layer_norm(x: jax.Array, scale_d: jax.Array, bias_d: jax.Array, eps: float) -> jax.Array:
    """Layer norm, in float32.

    Args:
        x: [..., D].
        scale_d: [D].
        bias_d: [D].
        eps: Added to the variance.
    Returns:
        [..., D] in the dtype of x.
    Source: Ba et al., 2016.
    """
    x_32 = x.astype(jnp.float32)
    centred = x_32 - x_32.mean(axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    return (normed * scale_d.astype(jnp.float32) + bias_d.astype(jnp.float32)).astype(x.dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes a fraction of entries and scales the rest; the identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))


def rope_frequencies(
    rope: Rope, head_dim: int, max_position: int, lengths: jax.Array | None
) -> jax.Array:
    """Angles per position of each rotary pair.

    Args:
        rope: The kind and its numbers.
        head_dim: H.
        max_position: The pretraining context in tokens; `dynamic` stretches beyond it.
        lengths: int [B, T] or [B, 1], the length of the text that a token is part of. Only
            `dynamic` reads it.
    Returns:
        float32 [H/2], or [B, T or 1, H/2] for `dynamic`.
    Source: Su et al., 2021 (RoPE); the kinds as transformers 5 computes them.
    """
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    if rope.kind == 'dynamic':
        assert lengths is not None
        longest = jnp.maximum(lengths, max_position).astype(jnp.float32)[..., None]
        stretch = rope.factor * longest / max_position - (rope.factor - 1)
        theta = rope.theta * stretch ** (head_dim / (head_dim - 2))
        return 1.0 / theta**exponents
    frequencies = 1.0 / rope.theta**exponents
    if rope.kind == 'linear':
        return frequencies / rope.factor
    if rope.kind == 'llama3':
        wavelengths = 2 * math.pi / frequencies
        low = rope.original_max_position / rope.low_freq_factor
        high = rope.original_max_position / rope.high_freq_factor
        blend = (rope.original_max_position / wavelengths - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        medium = (1 - blend) * frequencies / rope.factor + blend * frequencies
        stretched = jnp.where(wavelengths > low, frequencies / rope.factor, medium)
        return jnp.where(wavelengths < high, frequencies, stretched)
    return frequencies


def rotate(x_btnh: jax.Array, cos_bth: jax.Array, sin_bth: jax.Array) -> jax.Array:
    """Turns the pairs (i, i + H/2) of each head by a position's angles.

    Args:
        x_btnh: Queries or keys [B, T, N, H].
        cos_bth: float32 [B, T, H/2].
        sin_bth: float32 [B, T, H/2].
    Returns:
        [B, T, N, H] in the dtype of x.
    Source: Hugging Face's layout of LLaMA, in which pairs are half a head apart.
    """
    first, second = jnp.split(x_btnh.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_bth[:, :, None, :], sin_bth[:, :, None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_btnh.dtype)


def segment_lengths(positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """The length in tokens of the segment that each token is part of.

    Args:
        positions: int [B, T], restarting in each segment.
        segment_ids: int [B, T], between 0 and T.
    Returns:
        int [B, T].
    """
    count = positions.shape[1] + 1

    def of_row(position_t, segment_t):
        last = jax.ops.segment_max(position_t, segment_t, num_segments=count)
        return last[segment_t] + 1

    return jax.vmap(of_row)(positions, segment_ids)


def alibi_slopes(heads: int) -> np.ndarray:
    """How fast each head's attention falls with distance.

    Args:
        heads: N, any number.
    Returns:
        float32 [N].
    Source: Press et al., 2022; for an N that is no power of two, as BLOOM: those of the next lower
        power, then every other one of the next higher power's.
    """
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / lower) for i in range(lower)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / lower) for i in range(heads - lower)]
    return np.asarray(slopes, np.float32)
