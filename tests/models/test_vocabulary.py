"""The sharded look-up and the chunked loss against the plain ones."""
# JAX and NumPy arrays stand in for each other here, which their stubs do not know.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

import contextlib
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax import config, sharding
from belle_jax.models import vocabulary
from belle_jax.planning.program import CompiledProgram, arrays, loop_collectives

VOCAB, PADDED, EMBED = 300, 384, 16


def inputs(batch=8, length=24, seed=0):
    rng = np.random.default_rng(seed)
    return (
        jnp.asarray(rng.normal(size=(batch, length, EMBED)), jnp.float32),
        jnp.asarray(rng.normal(size=(PADDED, EMBED)), jnp.float32),
        jnp.asarray(rng.integers(0, VOCAB, (batch, length))),
        jnp.asarray(rng.random((batch, length)), jnp.float32),
    )


def plain(h, table, targets):
    """In float64."""
    logits = np.asarray(h, np.float64) @ np.asarray(table, np.float64)[:VOCAB].T
    top = logits.max(-1, keepdims=True)
    normaliser = (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[..., 0]
    return normaliser - np.take_along_axis(logits, np.asarray(targets)[..., None], -1)[..., 0]


@pytest.mark.parametrize('shape', [None, (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
@pytest.mark.parametrize('elements', [2**26, 1])
def test_losses_equal_float64_and_gradients_the_plain_ones(monkeypatch, shape, elements):
    monkeypatch.setattr(vocabulary, 'CHUNK_ELEMENTS', elements)  # 1: chunks of 128 tokens
    h, table, targets, g = inputs()

    def ours(h, table):
        return vocabulary.token_losses(h, table, targets, VOCAB)

    def simple(h, table):
        log_p = jax.nn.log_softmax((h @ table.T)[..., :VOCAB])
        return -jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]

    expected = jax.vjp(simple, h, table)[1](g)
    if shape is None:
        losses, backward = jax.vjp(jax.jit(ours), h, table)
        found = backward(g)
    else:
        mesh = sharding.make_mesh(config.Mesh(*shape))
        with jax.set_mesh(mesh):
            losses, backward = jax.vjp(jax.jit(ours), h, table)
            found = backward(g)
    np.testing.assert_allclose(losses, plain(h, table, targets), rtol=2e-6, atol=2e-6)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    assert (found[1][VOCAB:] == 0).all(), 'padding learns nothing'


@pytest.mark.parametrize('shape', [None, (2, 2, 2)])
def test_the_likeliest_token_is_the_largest_logit_of_all_shards(shape):
    h, table, targets, _ = inputs()
    likeliest = (np.asarray(h) @ np.asarray(table)[:VOCAB].T).argmax(-1)
    targets = jnp.where(targets % 2 == 0, targets, likeliest)
    mesh = sharding.make_mesh(config.Mesh(*shape or (8, 1, 1)))
    with jax.set_mesh(mesh) if shape else contextlib.nullcontext():
        scores, found = jax.jit(vocabulary.token_scores, static_argnums=3)(h, table, targets, VOCAB)
    np.testing.assert_array_equal(found, targets == likeliest)
    np.testing.assert_allclose(scores, -plain(h, table, targets), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize('shape', [None, (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_looking_up_is_indexing(shape):
    _, table, tokens, _ = inputs()
    g = jnp.asarray(np.random.default_rng(1).normal(size=(*tokens.shape, EMBED)), jnp.float32)

    def run():
        return jax.vjp(lambda t: vocabulary.embed(tokens, t, jnp.dtype('float32')), table)

    if shape is None:
        out, backward = run()
        gradient = backward(g)[0]
    else:
        with jax.set_mesh(sharding.make_mesh(config.Mesh(*shape))):
            out, backward = run()
            gradient = backward(g)[0]
    np.testing.assert_array_equal(out, table[tokens])
    expected = np.zeros(table.shape)
    np.add.at(expected, np.asarray(tokens), np.asarray(g, np.float64))
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_a_vocabulary_of_250880_never_has_its_logits_in_memory():
    """BLOOM's vocabulary, 2 rows of 1,024 tokens: full logits would be 2 GB."""
    batch, length, vocab = 2, 1024, 250_880
    h = jax.ShapeDtypeStruct((batch, length, 64), jnp.float32)
    table = jax.ShapeDtypeStruct((vocab, 64), jnp.float32)
    targets = jax.ShapeDtypeStruct((batch, length), jnp.int32)

    def loss(h, table, targets):
        return vocabulary.token_losses(h, table, targets, vocab).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(h, table, targets).compile()
    logits_bytes = batch * length * vocab * 4
    chunk = vocabulary.CHUNK_ELEMENTS * 4
    table_bytes = vocab * 64 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * chunk + 3 * table_bytes
    assert 4 * chunk + 3 * table_bytes < logits_bytes
    shapes = re.findall(r'f32\[([\d,]+)\]', compiled.as_text())
    sizes = [int(np.prod([int(n) for n in s.split(',')])) for s in shapes]
    assert max(sizes) < batch * length * vocab


@pytest.mark.slow
def test_the_loss_of_250880_tokens_has_the_plain_gradient():
    rng = np.random.default_rng(0)
    vocab = 250_880
    h = jnp.asarray(rng.normal(size=(1, 300, 8)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(vocab, 8)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, vocab, (1, 300)))
    g_h, g_table = jax.grad(
        lambda h, t: vocabulary.token_losses(h, t, targets, vocab).mean(), (0, 1)
    )(h, table)
    logits = np.asarray(h[0], np.float64) @ np.asarray(table, np.float64).T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    p[np.arange(300), np.asarray(targets[0])] -= 1
    p /= 300
    for found, expected in ((g_h[0], p @ np.asarray(table)), (g_table, p.T @ np.asarray(h[0]))):
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('shape', [(1, 8, 1), (2, 2, 2)])
def test_no_collective_of_the_size_of_the_table_runs_in_a_loop(monkeypatch, shape):
    monkeypatch.setattr(vocabulary, 'CHUNK_ELEMENTS', 1)
    h, table, targets, _ = inputs(batch=32, length=64)
    with jax.set_mesh(sharding.make_mesh(config.Mesh(*shape))):
        text = (
            jax.jit(
                jax.grad(lambda h, t: vocabulary.token_losses(h, t, targets, VOCAB).sum(), (0, 1))
            )
            .lower(h, table)
            .compile()
            .as_text()
        )
    inside = loop_collectives(CompiledProgram(text))
    assert inside or shape[2] == 1, 'sums over the vocabulary shards are found'
    sizes = [math.prod(s) for c in inside for _, s in arrays(c.shape)]
    assert max(sizes, default=0) < PADDED * EMBED // 8
    assert 'while' in text
