"""Greedy decoding and beam search against transformers' `generate`, for 200 tokens."""

import numpy as np
import pytest

import belle_jax
from belle_jax.decoding import Engine, Sampling

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.parity

VOCAB, TOKENS = 157, 200


def random_model(family):
    """A tiny model with no setting at its default, far from ties and from endless repetition."""
    torch.manual_seed(12)
    if family == 'llama':
        config = transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
            rms_norm_eps=1e-4,
            attention_bias=True,
            mlp_bias=True,
            rope_parameters={'rope_type': 'linear', 'rope_theta': 500.0, 'factor': 1.5},
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.BloomConfig(
            vocab_size=VOCAB,
            hidden_size=56,
            n_layer=3,
            n_head=14,
            layer_norm_epsilon=1e-4,
            apply_residual_connection_post_layernorm=True,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = transformers.BloomForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'norm' in name or name.endswith('ln_f.weight'):
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                # Sharp attention: what is said depends on all that was said before.
                scale = 0.75 if any(k in name for k in ('query', 'q_proj', 'k_proj')) else 0.25
                parameter.copy_(scale * torch.randn_like(parameter))
    model.generation_config.eos_token_id = None  # or it would stand in for an empty one
    return model.eval()


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Many threads only get into each other's way in a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module', params=['llama', 'bloom'])
def pair(request, tmp_path_factory):
    """The same weights in transformers and here."""
    model = random_model(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(directory)
    return model, belle_jax.load_model(directory)


@pytest.fixture(scope='module')
def prompts():
    rng = np.random.default_rng(3)
    return [rng.integers(3, VOCAB, n).tolist() for n in (5, 23, 14)]


def theirs(model, prompts, eos_ids, **settings):
    """What `generate` adds to each prompt, all prompts in one batch padded on the left."""
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=TOKENS,
        eos_token_id=list(eos_ids) or None,
        pad_token_id=0,
        **settings,
    )
    with torch.no_grad():
        made = model.generate(tokens, attention_mask=mask, generation_config=config)
    answers = []
    for row in made[:, longest:].tolist():
        ends = [i for i, t in enumerate(row) if t in eos_ids]
        answers.append(row[: ends[0] + 1] if ends else row)
    return answers


def ours(model, prompts, eos_ids, **settings):
    engine = Engine(model, eos_ids=eos_ids)
    settings = Sampling(max_new_tokens=TOKENS, **settings)
    return [c.tokens for c in engine.generate(prompts, settings)]


def test_greedy_decoding_says_what_generate_says(pair, prompts):
    want = theirs(pair[0], prompts, ())
    assert [len(w) for w in want] == [TOKENS] * 3
    assert all(len(set(w)) > 8 for w in want)  # no endless repetition, which anything predicts
    assert ours(pair[1], prompts, ()) == want


def test_a_penalty_and_a_minimum_length_do_what_they_do_in_generate(pair, prompts):
    settings = {'repetition_penalty': 1.15, 'min_new_tokens': 60}
    eos_ids = theirs(pair[0], prompts[:1], (), repetition_penalty=1.15)[0][4:90:17]
    want = theirs(pair[0], prompts, eos_ids, **settings)
    assert all(len(w) > 60 for w in want) and min(map(len, want)) < TOKENS
    assert ours(pair[1], prompts, eos_ids, **settings) == want


def test_four_beams_say_what_generate_says(pair, prompts):
    want = theirs(pair[0], prompts, (), num_beams=4)
    assert [len(w) for w in want] == [TOKENS] * 3
    assert want != theirs(pair[0], prompts, ())
    assert ours(pair[1], prompts, (), num_beams=4) == want


def test_beams_that_end_are_ranked_as_in_generate(pair, prompts):
    unended = theirs(pair[0], prompts, (), num_beams=4, repetition_penalty=1.3)
    lengths = set()
    for eos_ids, settings in (
        (tuple(unended[0][30:90:20]), {'repetition_penalty': 1.3}),
        ((unended[1][50],), {'repetition_penalty': 1.3, 'min_new_tokens': 40}),
    ):
        want = theirs(pair[0], prompts, eos_ids, num_beams=4, **settings)
        assert ours(pair[1], prompts, eos_ids, num_beams=4, **settings) == want
        lengths |= {len(w) for w in want}
    assert min(lengths) < TOKENS  # some hypotheses ended
