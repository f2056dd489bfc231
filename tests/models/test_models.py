"""What must always hold of a model, whatever the family."""
# JAX and NumPy arrays stand in for each other here, which their stubs do not know.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from belle_jax import config, models, sharding
from belle_jax.training.objectives import NextToken

COUNTS = {
    'bloom_560m': 559_214_592,
    'bloom_1b1': 1_065_314_304,
    'bloom_1b7': 1_722_408_960,
    'bloom_3b': 3_002_557_440,
    'bloom_7b1': 7_069_016_064,
    'bloom_176b': 176_247_271_424,
    'llama_7b': 6_738_415_616,
    'llama_13b': 13_015_864_320,
    'llama_30b': 32_528_943_616,
    'llama_65b': 65_285_660_672,
    'llama2_7b': 6_738_415_616,
    'llama2_13b': 13_015_864_320,
    'llama2_70b': 68_976_648_192,
    'llama3_8b': 8_030_261_248,
    'llama3_70b': 70_553_706_496,
}
next_token = NextToken()
families = pytest.mark.parametrize('family', ['llama', 'bloom'])


def loss_and_gradient(architecture, params, batch, **settings):
    def loss(params):
        model = models.build(models.Blueprint(architecture), params, **settings)
        total, weight, _ = next_token(model, batch, None)
        return total / weight

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_close(ours, theirs, tolerance=1e-5):
    """Gradients agree to a fraction of the largest entry of each parameter."""
    assert ours[0] == pytest.approx(float(theirs[0]), rel=tolerance)
    for name, gradient in theirs[1].items():
        difference = np.abs(ours[1][name] - gradient).max()
        assert difference <= tolerance * np.abs(gradient).max() + 1e-9, name


@pytest.mark.parametrize('name', COUNTS)
def test_a_published_size_has_its_published_number_of_parameters(name):
    assert models.count_parameters(models.Blueprint(config.PRESETS[name])) == COUNTS[name]


@families
def test_no_logit_depends_on_a_later_token(family):
    architecture = tiny.FAMILIES[family]
    params = tiny.params(architecture)
    batch = tiny.packed_batch([[12]], 12)

    def logits_at(embedded, position):
        model = models.build(models.Blueprint(architecture), params)
        context = model.context(jnp.arange(12)[None])
        x_btd = model.embedded(batch['tokens'], context) + embedded
        h_btd = model.final_norm(model.run(x_btd, context))
        return model.logits(h_btd)[0, position, :300].sum()

    for position in (0, 5, 10):
        gradient = jax.grad(logits_at)(jnp.zeros((1, 12, 64)), position)
        influence = np.abs(gradient[0]).sum(axis=-1)
        assert (influence[position + 1 :] == 0).all()
        assert (influence[: position + 1] > 0).all()


@families
@pytest.mark.parametrize('kind', ['default', 'dynamic'])
def test_packed_equals_unpacked(family, kind):
    architecture = tiny.FAMILIES[family]
    if kind == 'dynamic':
        if family == 'bloom':
            pytest.skip('BLOOM has no rotary positions')
        rope = config.Rope('dynamic', theta=500.0, factor=3.0)
        architecture = config.Architecture.from_dict(
            architecture.to_dict() | {'rope': rope, 'max_position': 10}
        )
    params = tiny.params(architecture)
    packed = tiny.packed_batch([[20, 9, 15], [30, 2, 11]], 48)
    assert_close(
        loss_and_gradient(architecture, params, packed),
        loss_and_gradient(architecture, params, tiny.unpacked(packed, 48)),
    )


@families
@pytest.mark.parametrize(
    'settings',
    [
        {'remat': 'block'},
        {'remat': 'dots'},
        {'scan': False},
        {'scan': False, 'remat': 'block'},
    ],
    ids=str,
)
def test_remat_and_unrolling_change_nothing(family, settings):
    architecture = tiny.FAMILIES[family]
    params, batch = tiny.params(architecture), tiny.packed_batch([[20, 9], [17, 12]], 32)
    assert_close(
        loss_and_gradient(architecture, params, batch, **settings),
        loss_and_gradient(architecture, params, batch),
    )


@pytest.mark.slow
@families
@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_a_sharded_model_has_the_loss_and_gradient_of_an_unsharded_one(family, shape):
    architecture = tiny.FAMILIES[family]
    params = tiny.params(architecture)
    batch = tiny.packed_batch([[20, 9], [30], [5, 6, 7], [32]] * 2, 32)
    alone = loss_and_gradient(architecture, params, batch)
    mesh = sharding.make_mesh(config.Mesh(*shape))
    shardings = sharding.of_parameters(mesh, models.specs(models.Blueprint(architecture)))
    with jax.set_mesh(mesh):
        spread = {name: jax.device_put(p, shardings[name]) for name, p in params.items()}
        rows = sharding.named(mesh, ('batch', 'length'))
        placed = {k: jax.device_put(v, rows) for k, v in batch.items()}
        assert_close(loss_and_gradient(architecture, spread, placed), alone)


@families
def test_initial_parameters_are_the_same_on_every_mesh(family):
    architecture = tiny.FAMILIES[family]
    alone = models.initialise(models.Blueprint(architecture), jax.random.key(3))
    for shape in ((1, 8, 1), (2, 2, 2)):
        mesh = sharding.make_mesh(config.Mesh(*shape))
        shardings = sharding.of_parameters(mesh, models.specs(models.Blueprint(architecture)))
        spread = models.initialise(models.Blueprint(architecture), jax.random.key(3), shardings)
        for name, value in alone.items():
            assert spread[name].sharding == shardings[name]
            np.testing.assert_array_equal(spread[name], value)


@families
def test_decoding_with_a_cache_says_what_the_whole_text_says(family):
    architecture = tiny.FAMILIES[family]
    model = models.build(models.Blueprint(architecture), tiny.params(architecture))
    tokens = jnp.asarray(tiny.packed_batch([[20], [20]], 20)['tokens'])
    whole = model(tokens)
    for decoder in (model, models.for_decoding(model)):
        cache = models.empty_cache(decoder, 2, 24)
        # Rows of 12 and 9 tokens, padded on the right: what padding wrote is overwritten in time.
        lengths = jnp.array([12, 9])
        _, cache = decoder.hidden(
            tokens[:, :12], positions=jnp.broadcast_to(jnp.arange(12), (2, 12)), cache=cache
        )
        for step in range(8):
            slots = (lengths + step)[:, None]
            last = jnp.take_along_axis(tokens, slots, axis=1)
            h_btd, cache = decoder.hidden(last, positions=slots, cache=cache)
            logits = decoder.logits(h_btd)[:, 0, :300]
            expected = whole[jnp.arange(2), lengths + step]
            np.testing.assert_allclose(logits, expected, atol=2e-5)


@families
def test_dropout_depends_on_its_key_alone(family):
    architecture = tiny.FAMILIES[family]
    params, batch = tiny.params(architecture), tiny.packed_batch([[20, 9]], 32)
    losses = []
    for scan in (True, False):
        model = models.build(
            models.Blueprint(architecture),
            params,
            hidden_dropout=0.2,
            attention_dropout=0.1,
            scan=scan,
        )
        losses.append([float(next_token(model, batch, jax.random.key(i))[0]) for i in (0, 1)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[0][0] - losses[0][1]) > 1e-2
    plain = models.build(models.Blueprint(architecture), params)
    assert float(next_token(plain, batch, None)[0]) == pytest.approx(
        float(next_token(model, batch, None)[0]), rel=1e-6
    )


@families
def test_bfloat16_activations_stay_near_float32(family):
    architecture = tiny.FAMILIES[family]
    params, batch = tiny.params(architecture), tiny.packed_batch([[20, 9]], 32)
    loss_16 = loss_and_gradient(architecture, params, batch, dtype='bfloat16')
    loss_32 = loss_and_gradient(architecture, params, batch)
    assert float(loss_16[0]) == pytest.approx(float(loss_32[0]), rel=5e-3)
    assert all(g.dtype == jnp.float32 for g in loss_16[1].values())


def test_parameters_of_another_model_are_refused():
    params = tiny.params(tiny.LLAMA)
    with pytest.raises(ValueError, match=r'embed_norm\.bias is missing'):
        models.build(
            models.Blueprint(tiny.BLOOM),
            {k: v for k, v in tiny.params(tiny.BLOOM).items() if 'embed_norm.b' not in k},
        )
    with pytest.raises(
        ValueError, match=r'embed\.table holds int8 numbers where the model has float'
    ):
        models.build(
            models.Blueprint(tiny.LLAMA),
            params | {'embed.table': params['embed.table'].astype(jnp.int8)},
        )
    with pytest.raises(ValueError, match='belongs to no layer'):
        models.build(
            models.Blueprint(tiny.LLAMA), params | {'extra.kernel': params['final_norm.scale']}
        )
    with pytest.raises(ValueError, match=r'final_norm\.scale has shape \(1,\)'):
        models.build(models.Blueprint(tiny.LLAMA), params | {'final_norm.scale': jnp.ones(1)})
