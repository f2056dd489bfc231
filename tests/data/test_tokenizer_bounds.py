"""What a stranger's tokenizer may not ask for."""

import pytest

from belle_jax.data import tokenizer_bounds
from belle_jax.data.tiktoken_model import SPLIT
from belle_jax.data.tokenizer_directory import BLOOM_SPLIT

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}|[^\s]+[\r\n/]*|\s+"


@pytest.mark.parametrize(
    'pattern', [SPLIT, BLOOM_SPLIT, GPT2, O200K, r'[(+*]+\)+', '[一-龥]+', 'a++']
)
def test_the_expressions_of_published_tokenizers_are_quick(pattern):
    assert tokenizer_bounds.is_quick(pattern)


@pytest.mark.parametrize(
    'pattern', ['(a+)+b', '(a|aa)*$', r'(\w+\s?)*\d', 'a*a*a*a*b', '(a+){2,}', r'(a)\1', 'a+{2,}']
)
def test_what_can_take_for_ever_is_not(pattern):
    assert not tokenizer_bounds.is_quick(pattern)


def test_a_panic_of_the_library_is_a_sentence(tmp_path):
    class PanicException(BaseException):
        pass

    found = pytest.raises(ValueError, match='words is not readable .index out of range')
    with found, tokenizer_bounds.explained('words'):
        raise PanicException('index out of range')
    with pytest.raises(KeyboardInterrupt), tokenizer_bounds.explained('words'):
        raise KeyboardInterrupt
