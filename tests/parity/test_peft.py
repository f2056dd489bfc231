"""Adapters against peft: the same steps, the same logits, files both ways, merged or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax import config, models
from belle_jax.formats import peft
from belle_jax.runs import adapted, combined
from belle_jax.runs.load import load_model, open_parameters, read_architecture
from belle_jax.training import optim
from belle_jax.training.objectives import NextToken
from belle_jax.training.partition import partition
from belle_jax.training.step import make_step

torch = pytest.importorskip('torch')
their_peft = pytest.importorskip('peft')
transformers = pytest.importorskip('transformers')
torch_steps = pytest.importorskip('torch_steps')
pytestmark = pytest.mark.parity

STEPS = 20
OPTIM = config.Optim(
    learning_rate=3e-3, warmup_ratio=0.1, schedule='cosine', weight_decay=0.1, clip_norm=0.5
)
TOKENS = np.random.default_rng(0).integers(0, 300, (2, 24))
CASES = {
    'llama': ('llama', config.Adapter(4, 8.0, targets='q_proj,v_proj,down_proj')),
    'llama-dora': ('llama', config.Adapter(4, 8.0, rslora=True, dora=True)),
    'llama-plus': (
        'llama',
        config.Adapter(3, 6.0, targets='o_proj,up_proj', also='embed,head', ratio=4.0),
    ),
    'bloom': ('bloom', config.Adapter(4, 8.0, rslora=True)),
    'bloom-dora': ('bloom', config.Adapter(4, 8.0, targets='qkv', dora=True)),
}


@pytest.fixture(scope='module', params=CASES)
def case(request, tmp_path_factory):
    """A base, peft's adapter before and after training, and its model."""
    family, adapter = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    base = torch_steps.model(family)
    base.save_pretrained(folder / 'base')
    architecture = read_architecture(folder / 'base')
    named = adapter.low_rank(architecture)
    known = {'qkv': 'query_key_value'}
    targets = [known.get(t, t) for t in adapter.targets.split(',') if t] or 'all-linear'
    theirs = their_peft.get_peft_model(
        torch_steps.model(family),
        their_peft.LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            target_modules=targets,
            use_rslora=adapter.rslora,
            use_dora=adapter.dora,
            modules_to_save=['embed_tokens', 'lm_head'] if adapter.also else None,
            task_type='CAUSAL_LM',
        ),
    )
    theirs.save_pretrained(folder / 'before')
    losses = list(their_losses(theirs, adapter))
    theirs.save_pretrained(folder / 'after')
    theirs.eval()
    return folder, architecture, adapter, named, theirs, losses


def their_losses(model, adapter):
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if 'magnitude' in name else OPTIM.weight_decay
            rate = OPTIM.learning_rate * (adapter.ratio if 'lora_B' in name else 1.0)
            groups.setdefault((rate, decay), []).append(parameter)
    optimiser = torch.optim.AdamW(
        [{'params': p, 'lr': rate, 'weight_decay': d} for (rate, d), p in groups.items()],
        betas=(OPTIM.beta1, OPTIM.beta2),
        eps=OPTIM.eps,
    )
    schedule = transformers.get_scheduler('cosine', optimiser, 2, STEPS)
    yield from torch_steps.losses(
        model, torch_steps.batches(STEPS), optimiser, schedule, OPTIM.clip_norm
    )


def arrays(parameters):
    return {
        name: jnp.asarray(parameters.read(name, tuple(slice(0, n) for n in shape), np.float32))
        for name, shape in parameters.shapes.items()
    }


def their_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def test_twenty_steps_end_at_the_same_adapter(case):
    folder, architecture, adapter, named, _, losses = case
    blueprint, trained = partition(models.Blueprint(architecture, adapter=named), also=adapter.also)
    params = arrays(open_parameters(folder / 'base', adapter=folder / 'before'))
    trainable = {name: params.pop(name) for name in trained}
    specs = {name: spec for name, spec in models.specs(blueprint).items() if name in trained}
    optimiser = optim.make(OPTIM, STEPS, specs, adapter.ratio)
    step = jax.jit(make_step(blueprint, models.Execution(), NextToken(), optimiser, seed=0))
    state, ours = optimiser.init(trainable), []
    for number, batch in enumerate(torch_steps.batches(STEPS)):
        batch = {k: v[None] for k, v in batch.items()}
        (trainable, state), metrics = step(trainable, params, state, batch, np.int32(number))
        ours.append(float(metrics['loss']))
    np.testing.assert_allclose(ours, losses, rtol=1e-5)
    after = arrays(peft.open(folder / 'after', architecture))
    assert after.keys() == trained
    before = arrays(peft.open(folder / 'before', architecture))
    for name, array in after.items():
        assert np.abs(array - before[name]).max() > 1e-3, name
        np.testing.assert_allclose(trainable[name], array, atol=1e-5, rtol=0, err_msg=name)


@pytest.mark.parametrize('alphas', [{}, {'q_proj': 20}])
def test_two_adapters_are_combined_as_peft_combines_them(tmp_path, alphas):
    base = torch_steps.model('llama')
    base.save_pretrained(tmp_path / 'base')
    architecture = read_architecture(tmp_path / 'base')
    model = None
    for name, seed, targets in (('one', 1, ['q_proj', 'up_proj']), ('two', 2, ['q_proj'])):
        torch.manual_seed(seed)
        settings = their_peft.LoraConfig(
            r=4,
            lora_alpha=4 * seed,
            target_modules=targets,
            init_lora_weights=False,
            alpha_pattern=alphas if name == 'one' else {},
        )
        if model is None:
            model = their_peft.get_peft_model(base, settings, adapter_name=name)
        else:
            model.add_adapter(name, settings)
    model.save_pretrained(tmp_path)
    ours = [peft.open(tmp_path / name, architecture) for name in ('one', 'two')]
    weights = [0.7, -0.4]
    if alphas:
        with pytest.raises(ValueError, match='whose scales differ from product to product'):
            combined.combine(ours, weights, architecture, 'ties')
        uneven = peft.PeftAdapter(ours[0].adapter, ours[0].arrays, ('ranks',))
        with pytest.raises(ValueError, match='whose ranks differ from product to product'):
            combined.combine([uneven, ours[1]], weights, architecture, 'linear')
    with pytest.raises(ValueError, match=r'with the weights \[1e\+40, 1.0\] .* overflows'):
        combined.combine(ours, [1e40, 1.0], architecture, 'cat')
    for way in ('cat', 'linear', *(() if alphas else ('ties',))):
        model.add_weighted_adapter(['one', 'two'], weights, way, combination_type=way, density=0.3)
        model.set_adapter(way)
        expected = their_logits(model.eval())
        own = combined.combine(ours, weights, architecture, way, density=0.3)
        peft.write(own, architecture, tmp_path / 'ours' / way, str(tmp_path / 'base'))
        found = load_model(tmp_path / 'base', adapter=tmp_path / 'ours' / way)(TOKENS)
        np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=way)
    # dare draws: what it keeps of each entry is as much on average, and the rest is zero
    drawn = [
        combined.combine(ours[:1], [1.0], architecture, 'dare_linear', 0.25, seed).arrays
        for seed in range(200)
    ]
    name = 'blocks.0.mlp.up.adapter.b'
    mean, whole = np.mean([d[name] for d in drawn], 0), ours[0].arrays[name]
    kept = np.mean([d[name] != 0 for d in drawn])
    assert abs(kept - 0.25) < 0.01
    assert np.corrcoef(mean.ravel(), whole.ravel())[0, 1] > 0.98


def test_logits_agree_both_ways_and_merged(case, tmp_path):
    folder, architecture, _, named, theirs, _ = case
    base = folder / 'base'
    ours = load_model(base, adapter=folder / 'after')
    expected = their_logits(theirs)
    np.testing.assert_allclose(ours(TOKENS), expected, atol=2e-5)
    assert np.abs(np.asarray(load_model(base)(TOKENS)) - expected).max() > 0.005
    own = peft.open(folder / 'after', architecture)
    assert own.adapter == named
    peft.write(own, architecture, tmp_path / 'ours', str(base))
    loaded = their_peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / 'ours'
    )
    np.testing.assert_allclose(their_logits(loaded.eval()), expected, atol=2e-5)
    merged = adapted.Merged(open_parameters(base, adapter=folder / 'after'))
    model = models.build(models.Blueprint(architecture), arrays(merged))
    np.testing.assert_allclose(model(TOKENS), expected, atol=2e-5)
