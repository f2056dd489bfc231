"""LLaMA 3's tokenizer against its description: words by a pattern, then the lowest rank first."""

import base64
import collections
import itertools
import random

import pytest

from belle_jax.data import tiktoken_model, tokenizer

regex = pytest.importorskip('regex')

# Meta's pattern, in the syntax of Python's `regex`.
WORDS = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
TEXT = """
    Die Katze tritt die Treppe krumm; the cat's mat isn't where they'll sit, HE'LL say 1,234567.
    天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。 for (int i = 0; i < 10; ++i) {\n\t\treturn  x;\n\n}
    aaaa aaaaaaaa ababab the theatre there then 天地 天地 日月
"""
EDGES = 'aaaabcthe  \n\r\t\'sST123０½é天地の🦙👩‍👩‍👧\u3000\x00<|>_-=*"\u0301'


def split(ranks, word: bytes) -> list[bytes]:
    """The tokens of a word: whole if it has a rank, else the pair with the lowest is joined."""
    parts = [word] if word in ranks else [bytes([byte]) for byte in word]
    while True:
        joined = [(ranks.get(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        known = [pair for pair in joined if pair[0] is not None]
        if not known:
            return parts
        i = min(known)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def encode(ranks, text: str) -> list[int]:
    words = (word.encode() for word in WORDS.findall(text))
    return [ranks[part] for word in words for part in split(ranks, word)]


@pytest.fixture(scope='module')
def ranks() -> dict[bytes, int]:
    """All bytes, in an order that is not theirs, then the commonest pairs, as they are found."""
    found = {bytes([(byte * 91 + 7) % 256]): byte for byte in range(256)}
    words = [word.encode() for word in WORDS.findall(TEXT)]
    while len(found) < 380:
        pairs = collections.Counter(
            left + right
            for word in words
            for left, right in itertools.pairwise(split(found, word))
            if left + right not in found
        )
        found[min(pairs, key=lambda pair: (-pairs[pair], pair))] = len(found)
    # A word that no sequence of joins leads to: it is one token all the same.
    return found | {b' unreached': len(found)}


@pytest.fixture
def directory(ranks, tmp_path):
    lines = (f'{base64.b64encode(token).decode()} {rank}\n' for token, rank in ranks.items())
    (tmp_path / 'tokenizer.model').write_text(''.join(lines))
    return tmp_path


def test_it_says_what_joining_by_rank_says(ranks, directory):
    made = tokenizer.load(directory)
    assert len(ranks) > 300
    rng = random.Random(5)
    texts = [TEXT, ' unreached unreached', "I'LL we'Ve '\u017f", ' ' * 70 + 'x' + '\n' * 9, '']
    texts += [''.join(rng.choices(EDGES, k=rng.randint(1, 40))) for _ in range(3000)]
    for text, ids in zip(texts, made.encode_batch(texts), strict=True):
        assert ids == encode(ranks, text), text
        assert made.decode(ids) == text
    assert len(made.encode(' unreached')) == 1


def test_special_tokens_follow_the_ranks_and_nobody_can_type_one(ranks, directory):
    made, first = tokenizer.load(directory), len(ranks)
    assert (made.bos_id, made.eos_id, made.pad_id) == (first, first + 1, None)
    assert made.adds_bos and len(made) == first + 256
    assert made.encode('a', bos=True) == [first, ranks[b'a']]
    assert made.encode('<|eot_id|>') == encode(ranks, '<|eot_id|>')
    assert made.decode([first, ranks[b'a'], first + 9]) == 'a'
    saved = directory / 'saved'
    made.save(saved)
    assert tokenizer.load(saved).fingerprint() == made.fingerprint()


@pytest.mark.parametrize(
    ('release', 'names'),
    [
        (
            '3',
            {4: 'reserved_special_token_2', 5: 'reserved_special_token_3', 255: '250'}
            | {8: 'reserved_special_token_4', 10: 'reserved_special_token_5'},
        ),
        (
            '3.1',
            {4: 'finetune_right_pad_id', 5: 'reserved_special_token_2', 255: '247'}
            | {8: 'eom_id', 10: 'python_tag', 11: 'reserved_special_token_3'},
        ),
    ],
)
def test_special_tokens_have_the_names_of_their_release(release, names):
    made = tiktoken_model.special_tokens(release)
    assert len(made) == len(set(made)) == 256
    names |= {0: 'begin_of_text', 1: 'end_of_text', 2: 'reserved_special_token_0'}
    names |= {3: 'reserved_special_token_1', 6: 'start_header_id', 7: 'end_header_id', 9: 'eot_id'}
    for index, name in names.items():
        name = f'reserved_special_token_{name}' if name.isdigit() else name
        assert made[index] == f'<|{name}|>'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda lines: [*lines[:300], b'YWE!\n', *lines[300:]],
            'line 301 is not a new byte string',
        ),
        (lambda lines: [*lines[:300], lines[4], *lines[301:]], 'line 301 is not a new byte string'),
        (lambda lines: lines[:300] + lines[301:], 'its ranks are not 0 to'),
        (lambda lines: lines[:200], r'no rank for the single byte \d+, which .* truncated'),
        (lambda lines: [*lines[:-1], lines[-1][:5]], 'is not a new byte string'),
        (lambda lines: [*lines[:-1], b'=== 3\n'], 'is not a new byte string'),
    ],
)
def test_a_damaged_file_is_an_error_that_names_file_and_line(directory, change, message):
    path = directory / 'tokenizer.model'
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b''.join(change(lines)))
    with pytest.raises(ValueError, match=message) as error:
        tokenizer.load(directory)
    assert str(path) in str(error.value)
