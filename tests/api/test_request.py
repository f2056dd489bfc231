"""Small things of the api package: prices, guesses at tokens, the forms of an answer, imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from belle_jax.api import Price, price
from belle_jax.api.connection import read_answer
from belle_jax.api.request import Failure, answer_tokens, counted_tokens, prompt_tokens

ROOT = Path(__file__).resolve().parents[2]


def test_prices_are_of_a_million_tokens():
    assert price('gpt-4o-mini').cost(2_000_000, 1_000_000) == pytest.approx(2 * 0.15 + 0.6)
    assert price('gpt-3.5-turbo', output=4.0) == Price(0.5, 4.0)
    assert price('my-model', 0.1, 0.2) == Price(0.1, 0.2)
    assert not price('my-model') and price('my-model').cost(10**9, 10**9) == 0
    # A dated name may cost something else.
    assert not price('gpt-4o-2024-05-13')
    with pytest.raises(ValueError, match="only one price is given for model 'my-model'"):
        price('my-model', input=1.0)
    with pytest.raises(ValueError, match='prices are 0 or more'):
        price('gpt-4', input=-1.0)


def test_tokens_are_guessed_cautiously():
    assert prompt_tokens({'prompt': '请写一首诗'}) == 8
    assert prompt_tokens({'prompt': ['ab', 'cd']}) == 2 and prompt_tokens({'prompt': ''}) == 0
    parts = [{'type': 'text', 'text': '看图'}, {'type': 'image_url'}]
    messages = [{'role': 'user', 'content': '你好'}, {'role': 'user', 'content': parts}]
    assert prompt_tokens({'messages': messages}) == 3 + (3 + 4) + (3 + 4)
    assert prompt_tokens({'messages': [{'role': 'assistant', 'content': None}]}) == 7
    assert answer_tokens({'max_tokens': 100, 'n': 3}) == 300
    assert answer_tokens({'max_completion_tokens': 7}) == 7 and answer_tokens({}) == 4096


def answered(choice, **more):
    answer = read_answer(json.dumps({'choices': [choice], **more}).encode())
    return answer.text, answer.finish_reason


def test_every_form_of_an_answer_is_read():
    assert answered({'message': {'content': '好'}, 'finish_reason': 'stop'}) == ('好', 'stop')
    assert answered({'text': '好', 'finish_reason': 'length'}) == ('好', 'length')
    parts = [{'type': 'text', 'text': '一'}, {'type': 'text', 'text': '二'}]
    assert answered({'message': {'content': parts}}) == ('一二', None)
    # A filter that took the answer away is an answer, which asking again would not change.
    empty = {'message': {'content': None}, 'finish_reason': 'content_filter'}
    assert answered(empty) == ('', 'content_filter')
    # Some servers send an error beside a choice that is good.
    assert answered({'text': '好'}, error=None) == ('好', None)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'bad JSON'),
        (b'{"choices": [{"te', 'bad JSON'),
        (b'\xff\xfe', 'bad JSON'),
        (b'[1]', 'bad JSON'),
        (b'null', 'bad JSON'),
        (b'{}', 'empty choices'),
        (b'{"choices": []}', 'empty choices'),
        (b'{"choices": null, "usage": []}', 'empty choices'),
        (b'{"choices": [null]}', 'empty choices'),
        (b'{"choices": "x"}', 'empty choices'),
        (b'{"error": {"message": "busy"}}', 'error in reply'),
    ],
)
def test_a_body_without_an_answer_says_why(content, reason):
    with pytest.raises(Failure) as caught:
        read_answer(content)
    assert caught.value.reason == reason and caught.value.action == 'retry'


def test_what_the_server_did_not_count_is_not_taken_for_nothing():
    assert counted_tokens({'prompt_tokens': 3, 'completion_tokens': 4}) == (3, 4)
    assert counted_tokens({'prompt_tokens': 3, 'completion_tokens': None}) == (3, 0)
    assert counted_tokens({}) is None
    assert counted_tokens({'prompt_tokens': 0, 'completion_tokens': 0}) is None
    assert counted_tokens({'prompt_tokens': 'three', 'completion_tokens': 4}) is None


def test_importing_it_imports_no_jax():
    code = 'import sys, belle_jax.api; sys.exit(bool({"jax", "absl.flags"} & set(sys.modules)))'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
