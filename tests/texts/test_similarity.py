"""Similarity: the indexes find what comparing with every text finds, by definitions of our own."""

import itertools
import json
import math
import random
import re
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from belle_jax.synthesis.sources import OWN_SEEDS
from belle_jax.texts import bm25, minhash, similarity
from belle_jax.texts.rouge import Tokens, encoder

SEEDS = OWN_SEEDS
PUNCTUATION = '，。！？：；、“”'
ENGLISH = (
    'write give list a an the three five short long story poem email letter about for of to in '
    'explain describe summarize following sentence text why how what is are healthy company '
    'birthday party planet earth water music list rewrite translate french it into passive voice'
).split()


def lcs(a, b):
    """The textbook table, row by row."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def score(a, b):
    return Fraction(2 * lcs(a, b), len(a) + len(b)) if a and b else Fraction(0)


def chinese(count, seed=0):
    """Our own seed instructions and mixtures of them; every third is a changed earlier one."""
    rng = random.Random(seed)
    rows = [json.loads(line)['instruction'] for line in SEEDS.read_text('utf-8').splitlines()]
    clauses = [c for row in rows for c in re.split(f'[{PUNCTUATION}]', row) if len(c) > 2]
    texts = []
    while len(texts) < count:
        text = '，'.join(rng.sample(clauses, rng.randint(1, 3)))[: rng.randint(6, 60)]
        if texts and rng.random() < 1 / 3:
            text = changed(rng.choice(texts), rng.random() * 0.5, rng, ''.join(clauses))
        texts.append(text)
    return texts


def english(count, seed=0):
    rng = random.Random(seed)
    texts = []
    while len(texts) < count:
        words = [rng.choice(ENGLISH) for _ in range(rng.randint(3, 25))]
        if texts and rng.random() < 1 / 3:
            words = changed(rng.choice(texts).split(), rng.random() * 0.5, rng, ENGLISH)
        texts.append(' '.join(words).capitalize() + rng.choice('.?!'))
    return texts


def changed(tokens, part, rng, others):
    """Some tokens replaced, deleted or inserted, anywhere."""
    made = list(tokens)
    for _ in range(int(len(made) * part)):
        place = rng.randrange(len(made))
        made[place : place + rng.randint(0, 1)] = [rng.choice(others)] * rng.randint(0, 1)
        made = made or [rng.choice(others)]
    return ''.join(made) if isinstance(tokens, str) else made


def characters(text):
    return [c for c in text.lower() if not c.isspace()]


def words(text):
    return [w for w in re.sub('[^a-z0-9]+', ' ', text.lower()).split(' ') if w]


def pool(texts, tokens: Tokens = 'characters'):
    index = similarity.Index(tokens)
    for text in texts:
        index.add(text)
    return index


@pytest.mark.parametrize(
    ('texts', 'tokens', 'split', 'threshold'),
    [
        (chinese(220), 'characters', characters, 0.7),
        (chinese(120, 1), 'characters', characters, 0.45),
        (chinese(120, 2), 'characters', characters, 0.9),
        (english(260), 'words', words, 0.7),
    ],
    ids=['Chinese', 'low threshold', 'high threshold', 'English'],
)
def test_decisions_of_a_growing_pool_are_those_of_comparing_with_every_text(
    texts, tokens, split, threshold
):
    index = similarity.Index(tokens)
    kept, removed = [], 0
    for text in texts:
        scores = [score(split(text), other) for other in kept]
        match = index.nearest(text, threshold)
        first = index.first_over(text, threshold)
        if scores and max(scores) >= Fraction(str(threshold)):
            removed += 1
            assert match == (float(max(scores)), scores.index(max(scores)))
            over = [n for n, s in enumerate(scores) if s >= Fraction(str(threshold))]
            assert first == (float(scores[over[0]]), over[0])
        else:
            assert match == (0.0, -1) and first is None
            assert index.add(text) == len(kept)
            kept.append(split(text))
    assert len(index) == len(kept)
    assert removed > 10


@pytest.mark.parametrize('tokens', ['characters', 'words'])
def test_the_most_similar_ones_and_the_average_are_exact(tokens):
    texts = chinese(330) if tokens == 'characters' else english(330)
    split = {'characters': characters, 'words': words}[tokens]
    index = pool(texts, tokens)
    assert len(index) > similarity.FIRST
    others = [split(text) for text in texts]
    for text in (chinese if tokens == 'characters' else english)(6, 99):
        scores = [score(split(text), other) for other in others]
        order = sorted(range(len(scores)), key=lambda n: (-scores[n], n))[:10]
        assert index.most_similar(text, 10) == [(float(scores[n]), n) for n in order]
        assert index.nearest(text) == (float(scores[order[0]]), order[0])
        assert index.average(text) == pytest.approx(float(sum(scores)) / len(scores), abs=1e-12)
        assert index.average(text, 50) == pytest.approx(index.average(text), abs=0.1)


def test_comparing_fewer_for_the_most_similar_ones_still_gives_true_scores():
    texts = chinese(400, 3)
    index = pool(texts)
    exact = {n: s for s, n in index.most_similar(texts[7], 400)}
    some = index.most_similar(texts[7], 10, compare=40)
    assert len(some) == 10 and some[0] == (1.0, 7)
    assert all(exact[n] == s for s, n in some)


# What rouge_score 0.1.2 gives (rougeL's fmeasure, no stemmer).
ROUGE_SCORE = [
    (
        'Give three tips for staying healthy.',
        'Give 3 tips for staying healthy!',
        0.8333333333333334,
    ),
    (
        'Rewrite the given sentence in the passive voice',
        'Rewrite the following sentences in the active voice.',
        0.625,
    ),
    ("What's the café's opening time?", "What is the cafe's opening-time", 0.7142857142857143),
    (
        'List 10 ideas for a birthday party',
        'Generate ten names for a company',
        0.30769230769230765,
    ),
    (
        'Translate "good_morning" to French',
        'translate good morning into French',
        0.8000000000000002,
    ),
    ('', 'a', 0.0),
    ('...', '...', 0.0),
    ('a b c d e f g h i j', 'j i h g f e d c b a', 0.10000000000000002),
]


@pytest.mark.parametrize(('a', 'b', 'expected'), ROUGE_SCORE)
def test_scores_of_english_words_are_rouge_scores(a, b, expected):
    assert pool([a], 'words').nearest(b).score == pytest.approx(expected, abs=1e-15)


def test_a_tie_with_the_threshold_counts_and_is_no_matter_of_rounding():
    # 7 of 10 tokens are the same: 14 / 20 is 0.7, at every place and with every other length.
    index = pool(['一二三四五六七八九十'])
    assert index.nearest('一二三四五六七甲乙丙', 0.7) == (0.7, 0)
    assert index.nearest('一二三四五六甲乙丙丁', 0.7) == (0.0, -1)
    for total, share in itertools.product(range(20, 400, 20), range(6)):
        same = 7 * total // 20
        short = same + share if same + share <= total - same else same
        text = ''.join(chr(0x4E00 + n) for n in range(same))
        a = text + ''.join(chr(0x7000 + n) for n in range(short - same))
        b = text + ''.join(chr(0x8000 + n) for n in range(total - short - same))
        assert pool([a]).nearest(b, 0.7) == (0.7, 0), (total, share)
        assert pool([b]).first_over(a, 0.7) == (0.7, 0), (total, share)


def test_long_texts_repeated_tokens_and_texts_without_any():
    long = ''.join(characters(''.join(chinese(40, 5))))
    index = pool([long, '哈' * 300, '', '   ', '哈' * 40])
    cut = long[: len(long) * 3 // 4]
    assert index.nearest(cut, 0.7) == (float(score(cut, long)), 0)
    assert index.nearest('哈' * 250, 0.7) == (float(Fraction(500, 550)), 1)
    assert index.nearest('哈' * 60, 0.7) == (0.8, 4)
    assert index.nearest('') == (0.0, -1) == index.nearest('\n', 0.5)
    assert index.first_over(' ', 0.7) is None and index.average('') == 0.0
    assert index.most_similar('鑫淼', 3) == []
    assert similarity.Index().nearest('空') == (0.0, -1)
    assert similarity.Index().average('空') == 0.0


def test_earlier_texts_win_and_the_same_text_is_found_at_once():
    index = pool(['春天的 诗', '春天的诗', '春天的诗。'])
    assert index.nearest('春天\n的诗', 0.5) == (1.0, 0)
    assert index.first_over('春天的诗！', 0.7) == (float(score('春天的诗！', '春天的诗')), 0)
    assert [m.index for m in index.most_similar('春天的诗', 3)] == [0, 1, 2]


def test_a_models_tokens_are_compared_by_their_ids():
    split = {'甲乙': [70_000, 5], '甲丙': [70_000, 6], '丁': [55_296], '戊': [57_343]}.__getitem__
    index = pool(['甲乙', '丁'], split)
    assert index.nearest('甲丙', 0.5) == (0.5, 0)
    assert index.nearest('戊', 0.1) == (0.0, -1)  # ids that as code points would be surrogates
    many = encoder(lambda text: range(int(text)))
    codes = many('60000')
    assert len(set(codes)) == 60_000 and codes.encode('utf-8').decode('utf-8') == codes


def test_words_of_languages_without_spaces_are_characters():
    assert len(encoder('words')('用Python3写 quick-sort 算法，かな')) == 9
    with pytest.raises(ValueError, match="tokens='letters' is unknown: choose characters or words"):
        similarity.Index('letters')
    with pytest.raises(ValueError, match='threshold=0 must be above 0'):
        pool(['一']).first_over('一', 0)


def bm25_scores(query, texts):
    """The formula, document by document."""
    length = sum(map(len, texts)) / len(texts)
    having = Counter(token for text in texts for token in set(text))
    idf = {t: math.log((len(texts) - n + 0.5) / (n + 0.5)) for t, n in having.items()}
    mean = sum(idf.values()) / len(idf)
    scores = []
    for text in texts:
        total, counts = 0.0, Counter(text)
        for token in query:
            if counts[token]:
                weight = idf[token] if idf[token] >= 0 else 0.25 * mean
                f = counts[token]
                total += weight * f * 2.5 / (f + 1.5 * (0.25 + 0.75 * len(text) / length))
        scores.append(total)
    return scores


def test_bm25_is_the_formula_with_the_texts_that_were_added_since():
    texts = chinese(150, 4)
    index = bm25.BM25Index()
    over = 0
    for number, text in enumerate(texts):
        if number in (12, 40, 149):
            expected = bm25_scores(characters(text), [characters(t) for t in texts[:number]])
            np.testing.assert_allclose(index.scores(text), expected, rtol=1e-12, atol=1e-12)
            best = max(range(number), key=lambda n: (expected[n], -n))
            assert index.nearest(text) == (pytest.approx(expected[best]), best)
            assert index.average(text) == pytest.approx(sum(expected) / number)
            order = sorted(range(number), key=lambda n: (-index.scores(text)[n], n))[:10]
            matches = [m.index for m in index.most_similar(text, 10)]
            assert matches == [n for n in order if expected[n] > 0]
            first = next((n for n, s in enumerate(expected) if s >= 8), None)
            over += first is not None
            match = index.first_over(text, 8)
            assert (match and match.index) == first
        assert index.add(text) == number
    assert over and len(index) == 150


def test_bm25_of_an_empty_pool_and_of_unknown_tokens():
    index = bm25.BM25Index('words')
    assert index.nearest('any') == (0.0, -1) and index.most_similar('any') == []
    assert index.average('any') == 0.0 and index.first_over('any', 1) is None
    index.add('one two')
    index.add('')
    assert index.nearest('three') == (0.0, -1)
    assert index.nearest('one one', 1e9) == (0.0, -1)


def jaccard(a, b):
    a, b = Counter(a), Counter(b)
    return sum((a & b).values()) / sum((a | b).values())


def test_the_bound_on_which_hashing_rests_holds():
    texts = chinese(60, 6)
    for a, b in itertools.combinations(texts, 2):
        s = float(score(a, b))
        assert jaccard(a, b) >= s / (2 - s) - 1e-12


def test_bands_agree_as_often_as_their_formula_says():
    # Pairs of 60 elements of which 45 are the same: a Jaccard similarity of 45/75.
    made = minhash.Bands(0.75, 0.95, seed=3)
    assert (made.rows, made.bands) == minhash.plan(0.75, 0.95)
    texts = [''.join(chr(0x4E00 + 100 * n + i) for i in range(75)) for n in range(200)]
    a = made.hashes([text[:60] for text in texts])
    b = made.hashes([text[15:] for text in texts])
    equal = a == b
    expected = (45 / 75) ** made.rows
    assert equal.mean() == pytest.approx(expected, abs=0.01)
    assert equal.any(0).mean() >= 0.95 - 0.05
    # The n-th of the same token is an element of its own.
    assert not (made.hashes(['哈' * 5]) == made.hashes(['哈' * 50])).all()
    assert (made.hashes(['甲乙甲']) == made.hashes(['乙甲甲'])).all()


def test_the_planned_bands_reach_their_recall():
    assert minhash.plan(0.7, 0.95) == (5, 65)
    made = minhash.Bands(0.7, 0.95, seed=0)
    assert made.recall(0.7) >= 0.95 and made.recall(0.8) >= 0.999
    assert minhash.plan(1.0, 0.95)[1] == 1
    with pytest.raises(ValueError, match='threshold=0.05 is too low for hashing'):
        minhash.plan(0.05, 0.99)


@pytest.mark.parametrize('block', [1, 7, 300])
def test_hashing_finds_nearly_all_and_invents_nothing(block):
    texts = chinese(900 if block > 1 else 200, 8)
    exact, hashed = similarity.Index(), minhash.MinHashIndex(threshold=0.7)
    found = missed = 0
    kept = []
    for begin in range(0, len(texts), block):
        hashed.prepare(texts[begin : begin + block])
        for text in texts[begin : begin + block]:
            match, expected = hashed.nearest(text), exact.nearest(text, 0.7)
            if match.index < 0 and expected.index >= 0:
                missed += 1
            elif match.index >= 0:
                found += 1
                # The same pools: both leave out what the exact index leaves out.
                assert match.score <= expected.score
                pair = characters(text), characters(kept[match.index])
                assert match.score == float(score(*pair))
            if expected.index < 0:
                kept.append(text)
                assert exact.add(text) == hashed.add(text)
    assert found > 20 and missed <= 0.02 * found


def test_texts_of_a_block_find_each_other_in_any_order():
    index = minhash.MinHashIndex(threshold=0.7)
    index.prepare(['用一句话介绍自己', '用两句话介绍自己', '今天天气怎么样', ''])
    index.add('用两句话介绍自己')
    index.add('')
    expected = (float(Fraction(14, 16)), 0)
    assert index.nearest('用一句话介绍自己') == expected
    assert index.first_over('用一句话介绍自己', 0.7) == expected
    assert index.most_similar('用一句话介绍自己') == [expected]
    assert index.most_similar('用两句话介绍自己') == [(1.0, 0)]
    assert index.nearest('今天天气怎么样') == index.nearest('') == (0.0, -1)
    # A text that was not announced works too, and what waited is still found.
    assert index.nearest('用三句话介绍自己') == expected
    assert index.nearest('用三句话介绍自己', 0.9) == (0.0, -1)
    assert index.first_over('用三句话介绍自己', 0.9) is None


def test_a_pool_is_taken_over_with_its_numbers():
    texts = [*english(300, 9), '', 'the same', 'the same']
    index = pool(texts, 'words')
    expected = [index.nearest(text, 0.7) for text in texts]
    hashed = minhash.MinHashIndex.over(index, 0.7)
    assert len(hashed) == len(texts)
    assert [hashed.nearest(text) for text in texts] == expected
    other = changed(texts[11].split(), 0.1, random.Random(0), ENGLISH)
    assert hashed.nearest(' '.join(other)) == index.nearest(' '.join(other), 0.7)
    assert hashed.add('something else') == len(texts)


def test_many_alike_texts_in_one_block_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr(minhash, 'PAIRS', 5000)
    rng = random.Random(1)
    # They agree in most bands, and no two score 0.9.
    base = ''.join(chr(0x4E00 + n) for n in range(40))
    texts = [''.join(changed(base, 0.5, rng, '甲乙丙丁戊己')) for _ in range(120)]
    exact, hashed = pool(texts[:60]), minhash.MinHashIndex(threshold=0.6)
    hashed.prepare(texts)
    for text in texts[:60]:
        hashed.add(text)
    for text in texts[60:]:
        assert hashed.nearest(text, 0.6) == exact.nearest(text, 0.6)
