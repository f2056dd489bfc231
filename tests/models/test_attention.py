"""Attention against NumPy in float64, and what fused kernels are given against exact arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax.models import flash
from belle_jax.models.attention import alibi_slopes, attention


def reference(q, k, v, segments, slopes):
    """Softmax attention in float64, one head and one query at a time."""
    batch, length, heads, head_dim = q.shape
    group = heads // k.shape[2]
    out = np.zeros(q.shape)
    for b in range(batch):
        for n in range(heads):
            for t in range(length):
                keys = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
                scores = np.array([q[b, t, n] @ k[b, s, n // group] for s in keys])
                scores = scores / np.sqrt(head_dim) + slopes[n] * (np.array(keys) - t)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                out[b, t, n] = weights @ np.stack([v[b, s, n // group] for s in keys])
    return out


def random_inputs(length, heads, kv_heads, head_dim=8, batch=2):
    rng = np.random.default_rng(length)
    q = rng.normal(size=(batch, length, heads, head_dim))
    k, v = (rng.normal(size=(batch, length, kv_heads, head_dim)) for _ in range(2))
    segments = np.sort(rng.integers(1, 4, size=(batch, length)), axis=1)
    return q, k, v, segments


@pytest.mark.parametrize(('heads', 'kv_heads'), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize('chunk', [256, 5])
def test_plain_attention_equals_float64(monkeypatch, heads, kv_heads, chunk):
    monkeypatch.setattr('belle_jax.models.attention.QUERY_CHUNK', chunk)
    q, k, v, segments = random_inputs(23, heads, kv_heads)
    slopes = np.linspace(0.1, 0.7, heads).astype(np.float32)
    out = attention(
        *(jnp.asarray(x, jnp.float32) for x in (q, k, v)),
        segment_ids=jnp.asarray(segments),
        slopes=slopes,
        backend='xla',
    )
    np.testing.assert_allclose(out, reference(q, k, v, segments, slopes), atol=2e-6)


def test_slopes_are_those_of_the_paper_and_of_bloom():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    # 14 heads: the 8 of the next lower power, then every other one of 16's.
    expected = [2.0**-i for i in range(1, 9)] + [2.0 ** (-0.5 * i) for i in (1, 3, 5, 7, 9, 11)]
    np.testing.assert_allclose(alibi_slopes(14), expected, rtol=1e-6)


@pytest.mark.parametrize('heads', [16, 32, 112])
def test_folded_alibi_in_bfloat16_is_as_exact_as_float32(heads):
    """slope · key index as a product of bfloat16 features, up to 2,048 tokens."""
    slopes = alibi_slopes(heads)
    scale = 1 / np.sqrt(128)
    zeros = jnp.zeros((1, 2048, heads, 8), jnp.bfloat16)
    q, k = flash.fold_alibi(zeros, zeros, jnp.asarray(slopes / scale))
    q, k = (np.asarray(x[0, :, :, 8:], np.float64) for x in (q, k))
    bias = scale * np.einsum('nf,snf->ns', q[7], k)
    exact = slopes[:, None].astype(np.float64) * np.arange(2048)
    assert (np.abs(bias - exact) <= 2.0**-23 * exact).all()


def test_segment_offsets_are_what_cudnn_takes():
    ids = jnp.array([[1, 1, 1, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [1, 2, 3, 3, 3, 3, 3, 0]])
    lengths, offsets = flash.segment_offsets(ids, 5)
    assert lengths.tolist() == [[3, 2, 3, -1, -1], [8, -1, -1, -1, -1], [1, 1, 5, 1, -1]]
    assert offsets.tolist() == [
        [0, 3, 5, 8, -1, -1],
        [0, 8, -1, -1, -1, -1],
        [0, 1, 2, 7, 8, -1],
    ]


@pytest.mark.parametrize('slopes', [None, alibi_slopes(2)], ids=['rope', 'alibi'])
def test_splash_equals_plain_attention_on_packed_rows(monkeypatch, slopes):
    """The TPU kernel, run by Pallas' interpreter."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    make = kernel.make_splash_mha
    monkeypatch.setattr(kernel, 'make_splash_mha', lambda *a, **k: make(*a, interpret=True, **k))
    q, k, v, segments = random_inputs(128, 2, 2 if slopes is not None else 1, head_dim=16, batch=1)
    q, k, v = (jnp.asarray(x, jnp.float32) for x in (q, k, v))

    def run(q, k, v, backend):
        return attention(q, k, v, segment_ids=jnp.asarray(segments), slopes=slopes, backend=backend)

    ours, theirs = run(q, k, v, 'splash'), run(q, k, v, 'xla')
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=q.shape), jnp.float32)
    gradients = [
        jax.grad(lambda q, k, v, b=b: (run(q, k, v, b) * cotangent).sum(), (0, 1, 2))(q, k, v)
        for b in ('splash', 'xla')
    ]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


def test_a_backend_that_cannot_do_it_says_so():
    q = jnp.zeros((1, 100, 2, 16))
    with pytest.raises(ValueError, match='cudnn takes 16-bit activations, not float32'):
        attention(q, q, q, backend='cudnn')
    with pytest.raises(ValueError, match='multiples of 128, not 100'):
        attention(q, q, q, backend='splash')
    with pytest.raises(ValueError, match='no attention dropout'):
        attention(q, q, q, backend='splash', dropout=0.1, key=jax.random.key(0))
