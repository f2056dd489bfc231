"""Small things of the api package: prices, guesses at tokens, the forms of an answer, imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from belle_jax.api import Price, price
from belle_jax.api.answer import read_answer, split_thoughts
from belle_jax.api.cost import answer_tokens, paid_tokens, prompt_tokens
from belle_jax.api.request import Failure, is_whole

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
    for wrong in (-1.0, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='prices are 0 or more'):
            price('gpt-4', input=wrong)


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


BODY = {'prompt': '请写一首诗', 'max_tokens': 9}  # 8 tokens by our guess


@pytest.mark.parametrize(
    ('usage', 'text', 'paid'),
    [
        ({'prompt_tokens': 3, 'completion_tokens': 4, 'total_tokens': 7}, '诗', (3, 4)),
        # Reasoning that is in the total alone is charged for (xAI's and Gemini's servers).
        ({'prompt_tokens': 700, 'completion_tokens': 100, 'total_tokens': 4800}, '诗', (700, 4100)),
        ({'prompt_tokens': 3, 'total_tokens': 9}, '诗', (3, 6)),
        # What was not counted, or cannot be a count, is not taken for nothing.
        ({}, '一首好诗', (8, 6)),
        ({'prompt_tokens': 3, 'completion_tokens': None}, '一首好诗', (3, 6)),
        ({'prompt_tokens': 0, 'completion_tokens': 0}, '一首好诗', (8, 6)),
        ({'prompt_tokens': 'three', 'completion_tokens': True}, '一首好诗', (8, 6)),
        ({'prompt_tokens': -50, 'completion_tokens': -9e9}, '一首好诗', (8, 6)),
        (json.loads('{"prompt_tokens": NaN, "completion_tokens": 1e400}'), '一首好诗', (8, 6)),
        ({'prompt_tokens': 10**300, 'completion_tokens': 4}, '诗', (8, 4)),
        # An answer that says nothing takes nothing.
        ({'prompt_tokens': 3, 'completion_tokens': 0}, '', (3, 0)),
    ],
)
def test_what_is_paid_is_what_was_counted_if_that_can_be(usage, text, paid):
    assert paid_tokens(BODY, usage, text) == paid


THOUGHTS = {
    '<think>几个?</think>\n两个': ('几个?', '两个', False),
    '几个?\n</think>\n\n两个': ('几个?', '两个', False),
    '<think>\n几个? 三个': ('几个? 三个', '', True),
    '两个': ('', '两个', False),
    '<think>\n\n</think>\n\n两个': ('', '两个', False),
    ' \n<Thinking>a</Thinking><think>b</think>c': ('a\nb', 'c', False),
    '<think>用<think>标签</think>好吗</think>好': ('用<think>标签</think>好吗', '好', False),
    '<think>a</think>一\n<think>b</think>二': ('a\nb', '一\n二', False),
    '一\n<think>还有': ('还有', '一', True),
    '◁think▷a◁/think▷b': ('a', 'b', False),
    '<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b': (
        'a',
        'b',
        False,
    ),
    # An answer about such marks is an answer.
    '用<think>标签</think>包起来': ('', '用<think>标签</think>包起来', False),
    '<think>a</think>以`</think>`结束': ('a', '以`</think>`结束', False),
    '```\n<think>x</think>\n```': ('', '```\n<think>x</think>\n```', False),
}


@pytest.mark.parametrize('text', THOUGHTS)
def test_what_a_model_thinks_is_not_what_it_answers(text):
    assert split_thoughts(text) == THOUGHTS[text]


def test_thoughts_are_kept_apart_wherever_the_server_puts_them():
    def read(message, reason='stop'):
        choice = {'message': message, 'finish_reason': reason}
        answer = read_answer(json.dumps({'choices': [choice]}).encode())
        return answer.text, answer.thoughts, answer.finish_reason

    assert read({'content': '好', 'reasoning_content': '想'}) == ('好', '想', 'stop')
    assert read({'content': '好', 'reasoning': '想'}) == ('好', '想', 'stop')
    assert read({'content': '<think>想</think>好'}) == ('好', '想', 'stop')
    # Thoughts without an end are a cut answer, whatever the server says of it.
    assert read({'content': '<think>想'}) == ('', '想', 'unfinished thoughts')
    assert read({'content': '<think>想'}, 'length') == ('', '想', 'length')
    # Words of refusal have a field of their own.
    refused = {'content': None, 'refusal': '抱歉，我不能帮忙。'}
    assert read(refused) == ('抱歉，我不能帮忙。', '', 'refusal')


@pytest.mark.parametrize(
    'reason', ['stop', 'STOP', 'eos', 'eos_token', 'end_turn', 'stop_sequence', None]
)
def test_an_answer_with_an_end_is_whole(reason):
    assert is_whole(reason)


@pytest.mark.parametrize(
    'reason',
    ['length', 'model_length', 'max_tokens', 'MAX_TOKENS', 'content_filter', 'sensitive', 'SAFETY',
     'tool_calls', 'refusal', 'unheard of', ''],
)  # fmt: skip
def test_every_other_end_is_a_cut(reason):
    assert not is_whole(reason)
    # Where others are told a reason, one without was cut too.
    assert not is_whole(None, told=True) and is_whole('stop', told=True)


@pytest.mark.parametrize(
    'reason', ['error', 'insufficient_system_resource', 'network_error', 'abort', 'Internal_Error']
)
def test_an_answer_that_the_server_broke_off_is_a_failure(reason):
    choice = {'message': {'content': '半个答'}, 'finish_reason': reason}
    body = {'choices': [choice], 'usage': {'prompt_tokens': 3, 'completion_tokens': 2}}
    with pytest.raises(Failure, match=f'answer ended by {reason}') as caught:
        read_answer(json.dumps(body).encode())
    assert caught.value.action == 'retry' and caught.value.usage == body['usage']


def test_half_a_character_in_any_field_is_marked():
    choice = {
        'message': {'content': '好\ud83d', 'reasoning': '\ud83d'},
        'finish_reason': 'st\ud83d',
    }
    answer = read_answer(json.dumps({'choices': [choice]}).encode())
    assert (answer.text, answer.thoughts, answer.finish_reason) == (
        '好\ufffd',
        '\ufffd',
        'st\ufffd',
    )
    with pytest.raises(Failure, match='忙\ufffd'):
        read_answer(json.dumps({'error': '忙\ud83d'}).encode())


@pytest.mark.parametrize(
    ('content', 'advice'),
    [
        (b'<!DOCTYPE html><html><title>Login</title>', 'ends in /v1'),
        (b'\n<html>', 'ends in /v1'),
        (b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]', 'streams alone'),
        (b'upstream', 'check the address'),
    ],
)
def test_what_is_not_json_says_what_to_do(content, advice):
    with pytest.raises(Failure) as caught:
        read_answer(content)
    assert advice in caught.value.advice


def test_importing_it_imports_no_jax():
    code = 'import sys, belle_jax.api; sys.exit(bool({"jax", "absl.flags"} & set(sys.modules)))'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
