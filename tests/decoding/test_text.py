"""Streamed text: at every token what decoding the whole answer says, and each decoded once."""

import random
import shutil

import pytest

from belle_jax.data import tokenizer
from belle_jax.decoding.text import CONTEXT, TextStream

TEXTS = (
    '今天天气很好，我们去公园散步吧。',
    'Hello world, 😀👨‍👩‍👧 text.\n\n  spaced   out 龘䶮 ñandú ',
    'def f(x):\n    return x  # 注释\n',
    '🏳️‍🌈龘龘龘',
)


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids):
        return bytes(ids).decode('utf-8', 'replace')


@pytest.fixture(scope='module')
def llama(shared, tmp_path_factory):
    """Characters that it has no token for are written as bytes: '<0xE9>'."""
    folder = tmp_path_factory.mktemp('llama')
    shutil.copyfile(shared / 'data/tokenizers/llama_tokenizer.model', folder / 'tokenizer.model')
    return tokenizer.load(folder)


@pytest.fixture(scope='module')
def chinese(shared):
    """Byte-level: a token may begin or end inside a character."""
    return tokenizer.load(shared / 'data' / 'tokenizers' / 'zh_bpe_6400')


def answers(made, count):
    """Texts, random tokens, and random bytes among them."""
    rng, size = random.Random(0), len(made)
    for _ in range(count):
        yield made.encode(''.join(rng.choice(TEXTS) for _ in range(3)))
        yield [rng.randrange(size) for _ in range(rng.randrange(1, 60))]
        yield [rng.choice([rng.randrange(3, 259)] * 4 + [rng.randrange(size)]) for _ in '-' * 60]
        yield [rng.randrange(131, 259)] * rng.randrange(1, 60)


@pytest.mark.parametrize('which', ['llama', 'chinese'])
def test_streamed_text_is_that_of_the_whole_answer_at_every_token(which, request):
    made = request.getfixturevalue(which)
    prompt = made.encode('Human: 你好\n\nAssistant:')
    before = len(made.decode(prompt[-CONTEXT:]))
    for answer in answers(made, 20):
        stream, pieces = TextStream(made, prompt), ''
        for end, token in enumerate(answer, 1):
            pieces += stream.feed([token])
            whole = made.decode(prompt[-CONTEXT:] + answer[:end])[before:]
            assert whole.startswith(pieces)
            assert pieces == stream.text and set(whole[len(pieces) :]) <= {'\ufffd'}
            assert len(whole) - len(pieces) < 4  # no more than a character's first bytes
        pieces += stream.feed([], last=True)
        assert pieces == stream.text == made.decode(prompt + answer)[len(made.decode(prompt)) :]


def test_byte_tokens_are_decoded_as_sentencepiece_decodes_them(llama, shared):
    sentencepiece = pytest.importorskip('sentencepiece')
    file = shared / 'data/tokenizers/llama_tokenizer.model'
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    start = llama.encode('a')
    for answer in answers(llama, 50):
        tokens = start + [token for token in answer if token > 2]  # the rest is spelled otherwise
        assert llama.decode(tokens) == theirs.decode(tokens)
    # `tokenizers` alone gives up the first character for the byte behind it.
    assert llama.decode([*start, *(3 + byte for byte in b'\xe9\xa9\xac\xff')]) == 'a马\ufffd'


@pytest.mark.parametrize('which', ['llama', 'chinese'])
@pytest.mark.parametrize('stop', [(), ('Human:', '\n\nUser')])
def test_each_token_is_decoded_with_a_few_others(which, stop, request):
    made = request.getfixturevalue(which)
    sizes = []

    class Counted:
        def decode(self, ids):
            sizes.append(len(ids))
            return made.decode(ids)

    answer = made.encode(''.join(TEXTS) * 20)
    stream = TextStream(Counted(), stop=stop)
    for token in answer:
        stream.feed([token])
    stream.feed([], last=True)
    assert stream.text == made.decode(answer)
    assert max(sizes) <= 32 and sum(sizes) < 16 * len(answer)


def test_a_token_that_is_never_a_character_is_decoded_with_a_few_others_too(llama):
    sizes = []

    class Counted:
        def decode(self, ids):
            sizes.append(len(ids))
            return llama.decode(ids)

    stream = TextStream(Counted(), llama.encode('a'))
    for _ in range(5000):
        stream.feed([131])
    stream.feed([], last=True)
    assert stream.text == '\ufffd' * 5000
    assert sum(sizes) < 16 * 5000


def test_text_holds_back_half_characters_and_beginnings_of_stop_strings():
    text = '你好 stop!'
    tokens = list(text.encode())
    stream = TextStream(Bytes(), [65, 66], stop=['stopped', 'p?'])
    pieces = [stream.feed([t]) for t in tokens]
    assert [p for p in pieces if p] == ['你', '好', ' ', 'stop!']
    assert stream.feed([0xE4, 0xBD]) == ''
    assert stream.feed([], last=True) == '\ufffd'


def test_an_answer_that_ends_at_once_is_empty(llama):
    prompt = llama.encode('Human: 倒写天地\n\nAssistant:')
    stream = TextStream(llama, prompt)
    assert stream.feed([], last=True) == stream.text == ''


@pytest.mark.parametrize('size', [1, 2, 5, 100])
def test_a_stop_string_is_found_across_chunks_of_any_size(size):
    tokens = list('一二STOP三STO'.encode())
    stream = TextStream(Bytes(), stop=['STOP', 'TO'])
    text = ''.join(stream.feed(tokens[i : i + size]) for i in range(0, len(tokens), size))
    # 'TO' is complete before 'STOP' is, whatever came at once.
    assert (text, stream.text, stream.stopped) == ('一二S', '一二S', True)
    assert bytes(stream.tokens) == '一二STO'.encode()
