"""SentencePiece's library as the oracle: ids, texts as they stream, vocabularies of other kinds."""

import json
import struct

import numpy as np
import pytest

from belle_jax.data import sentencepiece_model, tokenizer
from belle_jax.decoding.text import TextStream

sentencepiece = pytest.importorskip('sentencepiece')

NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def entry(text, score, kind=NORMAL):
    """A piece as a ModelProto's field."""
    raw = text.encode()
    inner = b'\x0a' + varint(len(raw)) + raw + b'\x15' + struct.pack('<f', score)
    inner += b'\x18' + varint(kind)
    return b'\x0a' + varint(len(inner)) + inner


def varint(number):
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def spec(field, **values):
    """A message of numbers, such as trainer_spec (field 2) or normalizer_spec (field 3)."""
    inner = b''.join(varint(int(key[1:]) << 3) + varint(value) for key, value in values.items())
    return varint(field << 3 | 2) + varint(len(inner)) + inner


def loaded(folder, proto, **settings):
    """Our tokenizer of a model file, and the library's."""
    folder.mkdir(exist_ok=True)
    (folder / 'tokenizer.model').write_bytes(proto)
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    return tokenizer.load(folder), sentencepiece.SentencePieceProcessor(model_proto=proto)


@pytest.fixture(scope='module')
def protos(shared):
    """LLaMA's model, and merged with a Chinese one as published: new pieces score 0, or follow."""
    folder = shared / 'data' / 'tokenizers'
    llama = (folder / 'llama_tokenizer.model').read_bytes()
    pieces = sentencepiece_model.read_model(folder / 'llama_tokenizer.model').pieces
    chinese = sentencepiece_model.read_model(folder / 'chinese_sp.model').pieces
    known = {piece.text for piece in pieces}
    new = [p.text for p in chinese if p.kind == NORMAL and p.text not in known]
    assert len(pieces) + len(new) == 49_953
    last = min(p.score for p in pieces if p.score > -1e8)
    return {
        'llama': llama,
        'merged, scores 0': llama + b''.join(entry(text, 0.0) for text in new),
        'merged, scores follow': llama
        + b''.join(entry(text, last - 1 - i) for i, text in enumerate(new)),
    }


@pytest.fixture(scope='module')
def texts(shared):
    """3,000 texts: prose of both languages, cut anywhere, mixed, with rare signs and spaces."""
    rng = np.random.default_rng(0)
    prose = [
        (shared / 'data/text' / name).read_text('utf-8')
        for name in ('xiyouji.txt', 'wikitext2_valid.txt', 'tinyshakespeare.txt')
    ]
    signs = list('😀鑫淼犇𠮷é\u0301ﬁ①　\t\n▁<s></s>\x00￼') + ['  ', '    ', ' \n ', '👩\u200d🚀']

    def stretch():
        source = prose[rng.integers(len(prose))]
        at = rng.integers(len(source) - 80)
        return source[at : at + rng.integers(1, 80)]

    def mixed():
        parts = [stretch()[: rng.integers(1, 12)] for _ in range(6)] + list(rng.choice(signs, 3))
        return ''.join(rng.permutation(parts))

    return [stretch() if i % 2 else mixed() for i in range(3000)]


@pytest.mark.parametrize('name', ['llama', 'merged, scores 0', 'merged, scores follow'])
def test_ids_and_streamed_text_are_sentencepieces(protos, texts, name, tmp_path):
    ours, oracle = loaded(tmp_path, protos[name])
    ids = list(ours.encode_batch(texts))
    for text, got, expected in zip(texts, ids, oracle.encode(texts), strict=True):
        assert got == expected, text
    for tokens in ids[::10]:
        stream, told = TextStream(ours), ''
        for count, token in enumerate(tokens, 1):
            told += stream.feed([token])
            whole = oracle.decode(tokens[:count])
            assert ours.decode(tokens[:count]) == whole
            assert whole.startswith(told) and len(whole) - len(told) <= 3
        assert told + stream.feed([], last=True) == oracle.decode(tokens)


def test_of_pieces_with_one_score_the_leftmost_is_joined(tmp_path):
    singles = [entry(text, -100.0 - i) for i, text in enumerate('▁人家个原')]
    proto = entry('<unk>', 0, UNKNOWN) + entry('<s>', 0, CONTROL) + entry('</s>', 0, CONTROL)
    proto += b''.join(singles) + entry('个人', 0.0) + entry('人家', 0.0)
    proto += spec(2, f3=2) + spec(3, f3=1, f4=0)
    ours, oracle = loaded(tmp_path, proto)
    spelled = [oracle.id_to_piece(i) for i in oracle.encode('原个人家')]
    assert spelled == ['▁', '原', '个人', '家']
    assert ours.encode('原个人家') == oracle.encode('原个人家')
    going_on = [oracle.id_to_piece(i) for i in ours.encode('原个人家', continued=True)]
    assert going_on == ['原', '个人', '家']
    assert ours.decode(ours.encode('原个人家')) == '原个人家'


def test_a_piece_of_letters_that_are_no_pieces_is_joined(tmp_path):
    proto = entry('<unk>', 0, UNKNOWN) + entry('<s>', 0, CONTROL) + entry('</s>', 0, CONTROL)
    proto += entry('▁', -1.0) + entry('空', -2.0) + entry('悟空', -3.0) + entry('孙悟空', -4.0)
    ours, oracle = loaded(tmp_path, proto + spec(2, f3=2) + spec(3, f3=1, f4=0))
    assert [oracle.id_to_piece(i) for i in oracle.encode('孙悟空')] == ['▁', '孙悟空']
    assert ours.encode('孙悟空空') == oracle.encode('孙悟空空')


@pytest.mark.parametrize('squeezes', [False, True])
def test_added_tokens_stand_between_sentencepieces_texts(protos, squeezes, tmp_path):
    proto = protos['merged, scores 0'] + (spec(3, f4=1) if squeezes else b'')
    (tmp_path / 'added_tokens.json').parent.mkdir(exist_ok=True)
    (tmp_path / 'added_tokens.json').write_text('{"[PAD]": 49953, "<|end|>": 49954}')
    ours, oracle = loaded(tmp_path, proto, additional_special_tokens=['<|end|>'])
    ids = ours.encode('你好[PAD]  再见 <|end|>')
    assert ids == [*oracle.encode('你好'), 49953, *oracle.encode('  再见 <|end|>')]
    assert ours.special['<|end|>'] == 49954 and '[PAD]' not in ours.special


def test_models_that_squeeze_spaces_and_unigram_ones_are_read(shared, texts, tmp_path):
    chinese = (shared / 'data/tokenizers/chinese_sp.model').read_bytes()  # unigram, squeezes
    ours, oracle = loaded(tmp_path, chinese)
    assert list(ours.encode_batch(texts)) == oracle.encode(texts)
    known = [tokens for tokens in oracle.encode(texts) if oracle.unk_id() not in tokens]
    assert len(known) > 300
    assert [ours.decode(tokens) for tokens in known] == [oracle.decode(tokens) for tokens in known]
