"""Shared runs of words: the rolling hashes find what comparing every run with every other finds."""

import random
import re

import numpy as np
import pytest

from belle_jax.texts.grams import GramIndex


def words(text):
    return re.findall('[a-z0-9]+|[一-鿿]', text.lower())


def covered(own, other, size):
    """Which words of a text stand in runs of `size` that another one has too."""
    runs = {tuple(other[at : at + size]) for at in range(len(other) - size + 1)}
    marks = np.zeros(len(own), bool)
    for at in range(len(own) - size + 1):
        if tuple(own[at : at + size]) in runs:
            marks[at : at + size] = True
    return marks


@pytest.mark.parametrize('size', [3, 6])
def test_shares_are_those_of_comparing_all_runs(size):
    rng = random.Random(size)
    letters = ['的', 'the', '7'][: 8 - size]

    def text(length):
        return ' '.join(rng.choice(letters) for _ in range(length))

    known = [text(rng.randint(0, 14)) for _ in range(30)]
    block = [text(rng.randint(0, 40)) + ' 新 new ' + text(rng.randint(0, 9)) for _ in range(40)]
    index = GramIndex(known, size, least=2)
    numbers = [index.numbers(text) for text in block]
    found = index.search(numbers)
    expected = {}
    for row, other in enumerate(block):
        for number, own in enumerate(map(words, known)):
            if len(own) >= 2 and (marks := covered(own, words(other), min(size, len(own)))).any():
                expected[row, number] = marks.mean()
    pairs = zip(found.block.tolist(), found.known.tolist())
    assert dict(zip(pairs, found.shares.tolist())) == pytest.approx(expected)
    assert len(expected) > 200
    for row, number in list(expected)[::7]:
        marks = covered(
            words(known[number]), words(block[row]), min(size, len(words(known[number])))
        )
        runs = re.findall('1+', ''.join(map(str, marks.astype(int))))
        stretch = words(index.stretch(numbers[row], number))
        assert len(stretch) == max(map(len, runs))
        assert ' '.join(stretch) in ' '.join(words(known[number]))


def test_a_run_goes_over_marks_and_widths_and_not_over_unknown_words():
    index = GramIndex(['One, two: three four FIVE', '１ ２ ３ ４ ５'], 5, 2)
    found = index.search([index.numbers(t) for t in ('one two three (four) five!', '1 2 3 x 4 5')])
    assert (found.block.tolist(), found.known.tolist()) == ([0], [0])
    assert found.shares.tolist() == [1.0]
    assert (
        index.stretch(index.numbers('a one two three four five'), 0) == 'one, two: three four five'
    )


def test_nothing_is_found_in_nothing():
    index = GramIndex(['', '一二'], 13, 8)
    assert not index.search([[], [1, 2, 0]]).block.size
    assert not GramIndex([], 13, 8).search([]).block.size
