"""Decoding: what a row gets, when it ends, and that its neighbours have no say in it."""

import dataclasses
import gc
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tiny
from belle_jax import config, models, sharding
from belle_jax.decoding import Completion, Engine, Sampling, beams, loop, score
from belle_jax.decoding.batch import AnswerBatch

families = pytest.mark.parametrize('family', ['llama', 'bloom'])


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids):
        return bytes(i % 256 for i in ids).decode('utf-8', 'replace')


def model(family, **changes):
    # A wider spread than in training: what comes next is far from a tie.
    changes = {'init_std': 0.3, 'max_position': 512, 'layers': 2, **changes}
    architecture = dataclasses.replace(tiny.FAMILIES[family], **changes)
    return models.build(models.Blueprint(architecture), tiny.params(architecture))


def prompts(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 300, n).tolist() for n in lengths]


def by_full_forward(model, prompt, count):
    """Greedy tokens without any cache: every token reads the whole text anew."""
    length = len(prompt) + count
    # Padded to one shape, so compiled once: what comes later is never read.
    text = np.zeros((1, -(-length // 80) * 80), np.int32)
    text[0, : len(prompt)] = prompt
    for i in range(len(prompt), length):
        text[0, i] = int(np.asarray(forward(model, text, length))[0, i - 1].argmax())
    return text[0, len(prompt) : length].tolist()


@nnx.jit
def forward(model, text, length):
    return model.logits(model.hidden(text, rope_lengths=jnp.full(text.shape[0], length)))


@families
def test_cached_decoding_says_what_full_forward_says(family):
    decoder, texts = model(family), prompts(3, 17, 30)
    answers = Engine(decoder).generate(texts, Sampling(max_new_tokens=40))
    for text, answer in zip(texts, answers):
        assert answer.tokens == by_full_forward(decoder, text, 40)


def test_dynamic_rope_is_set_for_prompt_and_answer_together():
    rope = config.Rope(kind='dynamic', theta=500.0, factor=2.0)
    decoder = model('llama', rope=rope, max_position=16)
    texts = prompts(9, 14)
    settings = [Sampling(max_new_tokens=20), Sampling(max_new_tokens=11)]
    answers = Engine(decoder).generate(texts, settings)
    for text, one, answer in zip(texts, settings, answers):
        assert answer.tokens == by_full_forward(decoder, text, one.max_new_tokens)


def test_a_prompt_longer_than_a_prefill_chunk_is_read_in_several():
    decoder = model('llama', max_position=4096)
    [text] = prompts(700)
    answer = Engine(decoder).generate([text, text[:5]], Sampling(max_new_tokens=6))[0]
    assert answer.tokens == by_full_forward(decoder, text, 6)


def compiled(function: Any) -> int:
    """How many programs a jitted function has been compiled to."""
    return function._cache_size()


def streamed(engine, prompt, settings) -> tuple[list[str], Completion]:
    pieces = list(engine.stream(prompt, settings))
    return pieces[:-1], pieces[-1]


def keys_and_values(engine, texts, row, settings):
    """All that row `row` put into the cache while its answer was made, and its tokens."""
    answers = engine._answers(texts, [settings] * len(texts))
    # The row's number, not its place, decides its draws.
    batch = AnswerBatch(engine, answers, [1000 + i if i != row else 7 for i in range(len(texts))])
    tokens = batch.first()[row] + batch.advance([False] * len(texts), loop.CHUNK)[row]
    length = int(batch._state.length[row])
    cache = [np.asarray(c)[row, :, :length] for kv in batch._state.cache for c in kv]
    return np.stack(cache), tokens


@families
@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_a_row_is_bit_identical_whatever_its_neighbours(family, temperature):
    engine = Engine(model(family))
    settings = Sampling(max_new_tokens=24, temperature=temperature, top_p=0.9, seed=3)
    mine, short, long, other = prompts(11, 3, 16, 13)
    cache, tokens = keys_and_values(engine, [mine, short, long, other], 0, settings)
    for texts, row in (([mine, long, long, long], 0), ([short, other, mine, short], 2)):
        others, again = keys_and_values(engine, texts, row, settings)
        assert again == tokens
        np.testing.assert_array_equal(others, cache)


@pytest.mark.slow
@families
def test_a_row_is_the_same_to_1e5_in_other_shapes(family):
    engine = Engine(model(family))
    settings = Sampling(max_new_tokens=24, temperature=1.0, seed=3)
    mine, long = prompts(11, 100)
    cache, tokens = keys_and_values(engine, [mine], 0, settings)
    for texts in ([mine, mine[:3]], [mine, long, long, mine, mine]):
        others, again = keys_and_values(engine, texts, 0, settings)
        assert again == tokens
        np.testing.assert_allclose(others, cache, atol=1e-5 * np.abs(cache).max())


@pytest.mark.slow
def test_drawn_answers_are_those_of_rows_answered_alone():
    engine = Engine(model('llama'), batch_size=4)
    texts = prompts(5, 16, 9, 12, 5, 14)
    settings = Sampling(max_new_tokens=20, temperature=1.2, top_k=50, repetition_penalty=1.1)
    together = engine.generate(texts, settings)
    alone = [engine.generate([t], settings, rows=[i])[0] for i, t in enumerate(texts)]
    assert together == alone
    same = engine.generate([texts[0]] * 3, settings)
    assert len({tuple(c.tokens) for c in same}) == 3


def test_an_answer_ends_at_eos_or_at_its_own_length():
    decoder, texts = model('llama'), prompts(5, 9, 14)
    free = Engine(decoder).generate(texts, Sampling(max_new_tokens=50))
    assert [c.finish_reason for c in free] == ['length'] * 3
    eos = free[1].tokens[20]
    first = free[1].tokens.index(eos)
    engine = Engine(decoder, eos_ids=[eos])
    answers = engine.generate(texts, [Sampling(max_new_tokens=m) for m in (1, 50, 37)])
    assert answers[0].tokens == free[0].tokens[:1]
    assert answers[1].tokens == free[1].tokens[: first + 1]
    assert (answers[1].finish_reason, answers[1].prompt_tokens) == ('stop', 9)
    assert answers[2].completion_tokens <= 37
    later = engine.generate(texts, Sampling(max_new_tokens=50, min_new_tokens=first + 5))[1]
    assert later.tokens[:first] == free[1].tokens[:first] and eos not in later.tokens[: first + 5]


def test_a_rotary_context_limits_answers_and_refuses_prompts_that_fill_it():
    engine = Engine(model('llama', max_position=32))
    [answer] = engine.generate(prompts(20), Sampling(max_new_tokens=100))
    assert (answer.completion_tokens, answer.finish_reason) == (12, 'length')
    with pytest.raises(ValueError, match='32 tokens and the model reads at most 32'):
        engine.generate(prompts(32))
    assert Engine(model('bloom', max_position=32)).room(500) is None


@pytest.mark.parametrize(
    'prompt, reason', [([], 'no tokens'), ([5, 300], 'token 300 and the model knows 300')]
)
def test_a_prompt_that_cannot_be_read_is_an_error(prompt, reason):
    with pytest.raises(ValueError, match=reason):
        Engine(model('llama')).generate([prompt])


def test_the_loop_compiles_once_for_all_its_runs():
    engine = Engine(model('llama', embed=32), batch_size=4)
    before = compiled(loop.advance)
    engine.generate(prompts(5, 9, 3), Sampling(max_new_tokens=3 * loop.CHUNK))
    engine.generate(prompts(4, 2, 7, seed=1), Sampling(max_new_tokens=3 * loop.CHUNK - 2))
    assert compiled(loop.advance) == before + 1


def test_the_stacks_that_a_model_was_loaded_in_are_let_go():
    decoder = model('llama')
    stacks = [v for k, v in models.parameters(decoder).items() if k.startswith('blocks.')]
    alive = [weakref.ref(stack) for stack in stacks]
    engine = Engine(decoder)
    del decoder, stacks
    gc.collect()
    assert len(alive) > 5 and not any(ref() is not None for ref in alive)
    assert len(engine.generate(prompts(5), Sampling(max_new_tokens=3))) == 1


@pytest.mark.slow
@families
@pytest.mark.parametrize('num_beams', [1, 3])
def test_a_mesh_says_what_one_device_says(family, num_beams):
    decoder, texts = model(family), prompts(5, 21, 9)
    settings = Sampling(max_new_tokens=40, num_beams=num_beams, repetition_penalty=1.1)
    want = Engine(decoder).generate(texts, settings)
    mesh = sharding.make_mesh(config.Mesh(2, 2, 2), jax.devices()[:8])
    places = sharding.of_parameters(mesh, models.specs(decoder.blueprint))
    placed = {k: jax.device_put(v, places[k]) for k, v in models.parameters(decoder).items()}
    spread = models.build(decoder.blueprint, placed)
    before = compiled(loop.advance), compiled(beams._search)
    assert Engine(spread).generate(texts, settings) == want
    after = compiled(loop.advance), compiled(beams._search)
    assert sum(after) == sum(before) + 1  # the loop's state keeps its layout
    sums = [s.sum() for s in score(decoder, texts)]
    np.testing.assert_allclose([s.sum() for s in score(spread, texts)], sums, rtol=1e-5)


def test_streamed_pieces_make_the_whole_answer():
    engine = Engine(model('llama'), Bytes())
    [prompt] = prompts(7)
    settings = Sampling(max_new_tokens=45, temperature=1.0)
    pieces, completion = streamed(engine, prompt, settings)
    assert len(pieces) > 3 and all(pieces)
    assert ''.join(pieces) == completion.text
    assert completion == engine.generate([prompt], settings)[0]


def test_a_stop_string_ends_an_answer_and_is_not_in_it():
    engine = Engine(model('llama'), Bytes())
    [prompt] = prompts(7)
    free = engine.generate([prompt], Sampling(max_new_tokens=60))[0]
    printable = free.text.encode('utf-8', 'replace').decode()
    at = 20
    stop = printable[at : at + 3]
    first = printable.index(stop)
    [answer] = engine.generate([prompt], Sampling(max_new_tokens=60, stop=('never', stop)))
    assert answer.finish_reason == 'stop'
    assert answer.text == printable[:first]
    assert answer.tokens == free.tokens[: answer.completion_tokens]
    pieces, again = streamed(engine, prompt, Sampling(max_new_tokens=60, stop=(stop,)))
    assert ''.join(pieces) == answer.text and again.tokens == answer.tokens


@families
def test_scores_are_the_log_probabilities_of_the_full_forward(family):
    decoder, texts = model(family), prompts(2, 33, 12, 20, 7)
    scores = score(decoder, texts, batch_size=4)
    whole = np.zeros((5, 33), np.int32)
    for row, text in enumerate(texts):
        whole[row, : len(text)] = text
    logs = np.asarray(jax.nn.log_softmax(forward(decoder, whole, 33)))
    for row, (text, got) in enumerate(zip(texts, scores)):
        want = logs[row, np.arange(len(text) - 1), text[1:]]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    with pytest.raises(ValueError, match='sequence 1 has 1 tokens'):
        score(decoder, [[4, 5], [3]])
