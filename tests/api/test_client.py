"""The client against a server that misbehaves: each failure by itself, and what comes of it."""

import asyncio
import datetime
import json
import random
import re
import sys
import traceback

import pytest

import api_server
from api_server import Server
from belle_jax.api import Breaker, Client, Limits, Price, Refused, Request, Retries, Unreachable
from belle_jax.api.pacing import Drain, retry_after
from belle_jax.api.request import Failure

KEY = 'sk-test-0123456789abcdefghij'
BODY = {'model': 'small', 'messages': [{'role': 'user', 'content': '你好'}], 'max_tokens': 64}


class Time:
    """A clock that only sleeping moves; `slept` has every wait."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def clock(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', KEY)
    monkeypatch.delenv('OPENAI_BASE_URL', raising=False)


def content(body, chance):
    return f'第{chance.randint(1, 999)}个回答', 'stop'


def ask(script, body=BODY, index=7, server=None, **options):
    """Asks one request; returns its reply, the client, the server and the time that went by."""

    async def run():
        time = Time()
        async with Server(
            script=script, content=content, keep_bodies=True, **(server or {})
        ) as served:
            given = {'chance': random.Random(3), 'breaker': Breaker(99, clock=time.clock)} | options
            client = Client(served.url, clock=time.clock, sleep=time.sleep, **given)
            async with client:
                return await client.ask(Request(index, body)), client, served, time

    return asyncio.run(run())


def test_an_answer_has_its_text_tokens_and_cost():
    reply, client, served, time = ask(['ok'], price=Price(2.0, 8.0))
    assert reply.index == 7 and reply.text.endswith('个回答') and reply.finish_reason == 'stop'
    # The server counts characters.
    assert (reply.prompt_tokens, reply.completion_tokens) == (2, len(reply.text))
    assert reply.cost_usd == (2 * 2.0 + len(reply.text) * 8.0) / 1e6
    assert reply.error == '' and reply.attempts == 1 and reply.sent is None
    assert reply.usage['total_tokens'] == 2 + len(reply.text)
    assert served.bodies == [BODY] and served.log[0]['endpoint'] == 'chat/completions'
    assert time.slept == [] and client.counters.prompt_tokens == 2


def test_completions_are_asked_where_there_is_a_prompt():
    body = {'model': 'small', 'prompt': '从前', 'stop': ['\n20', '20.'], 'top_k': 3, 'n': 1}
    reply, _, served, _ = ask(['ok'], body)
    assert reply.text.endswith('个回答') and served.log[0]['endpoint'] == 'completions'
    # Fields that the official client does not know are sent too.
    assert served.bodies == [body]


RETRIED = {
    '408': '408', '409': '409', '425': '425', '429': '429', '500': '500', '502': '502',
    '529': '529', 'drop': 'connection', 'drop midway': 'connection', 'half json': 'bad JSON',
    'not json': 'bad JSON', 'empty choices': 'empty choices', 'error in reply': 'error in reply',
}  # fmt: skip


@pytest.mark.parametrize('fault', RETRIED)
def test_a_passing_failure_is_asked_again(fault):
    good, *_ = ask(['ok'])
    reply, client, served, time = ask([fault, fault, 'ok'])
    assert (reply.text, reply.error, reply.attempts) == (good.text, '', 3)
    assert client.counters.retries == {RETRIED[fault]: 2}
    assert [line['what'] for line in served.log] == [fault, fault, 'ok']
    # Full jitter: from nothing to 1 s, then to 2 s.
    chance = random.Random(3)
    assert time.slept == [chance.uniform(0, 1), chance.uniform(0, 2)]


def test_a_server_that_hangs_is_asked_again_after_the_attempts_time():
    reply, client, served, _ = ask(['hang', 'ok'], retries=Retries(attempt_timeout=1.0))
    assert reply.text and reply.attempts == 2 and len(served.log) == 2
    assert client.counters.retries == {'time-out': 1}


def test_an_attempt_without_choices_is_paid_for():
    good, *_ = ask(['ok'])
    reply, *_ = ask(['empty choices', 'ok'], price=Price(1.0, 1.0))
    assert reply.prompt_tokens == 2 * good.prompt_tokens
    assert reply.completion_tokens == 2 * good.completion_tokens
    assert reply.cost_usd == (reply.prompt_tokens + reply.completion_tokens) / 1e6


def test_a_request_is_given_up_after_its_attempts():
    reply, client, served, time = ask(['500'], retries=Retries(attempts=4))
    assert reply.text == '' and reply.error == '500: error, test, this is 500'
    assert reply.attempts == len(served.log) == 4 and len(time.slept) == 3
    assert client.counters.retries == {'500': 3}


def test_a_request_is_given_up_at_its_deadline():
    retries = Retries(attempts=1000, first_delay=8.0, longest_delay=8.0, deadline=60.0)
    reply, _, served, time = ask(['500'], retries=retries)
    assert reply.error.startswith('500')
    assert 40 < sum(time.slept) <= 60 and len(served.log) == len(time.slept) + 1


def test_the_back_off_doubles_to_its_bound():
    chance, widest = random.Random(0), Retries(first_delay=1.0, longest_delay=10.0)
    for attempt, bound in ((1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (2000, 10)):
        drawn = [widest.delay(attempt, None, chance) for _ in range(400)]
        # Full jitter is uniform from 0: the mean is the middle, the ends are reached.
        assert 0 <= min(drawn) < 0.03 * bound and 0.97 * bound < max(drawn) <= bound
        assert sum(drawn) / 400 == pytest.approx(bound / 2, rel=0.1)


@pytest.mark.parametrize('seconds', ['3', '0.25', '17'])
def test_retry_after_in_seconds_is_never_undercut(seconds):
    reply, _, _, time = ask(['429 after', 'ok'], server={'retry_after': seconds})
    assert reply.attempts == 2 and len(time.slept) == 1
    assert float(seconds) <= time.slept[0] <= float(seconds) + 1


def test_retry_after_as_a_date_counts_from_the_servers_clock():
    reply, _, _, time = ask(['429 date', 'ok'])
    assert reply.attempts == 2 and 1.0 <= time.slept[0] <= 2.0


def test_retry_after_beyond_the_deadline_gives_the_request_up():
    reply, _, served, time = ask(
        ['429 after'], server={'retry_after': '100'}, retries=Retries(deadline=99)
    )
    assert reply.error.startswith('429') and len(served.log) == 1 and time.slept == []


def test_every_form_of_retry_after_is_read():
    date = 'Fri, 31 Dec 1999 23:59:59 GMT'
    assert retry_after({'retry-after': '120'}) == 120
    assert retry_after({'retry-after': '1.5'}) == 1.5
    assert retry_after({'retry-after-ms': '250', 'retry-after': '1'}) == 0.25
    assert retry_after({'retry-after': date, 'date': 'Fri, 31 Dec 1999 23:58:49 GMT'}) == 70
    # Past dates, as clocks differ, and without the server's clock.
    assert retry_after({'retry-after': date, 'date': 'Sat, 01 Jan 2000 00:00:09 GMT'}) == 0
    assert retry_after({'retry-after': date}) == 0
    ahead = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=10)
    text = ahead.strftime('%a, %d %b %Y %H:%M:%S GMT')
    assert retry_after({'retry-after': text}) == pytest.approx(36000, abs=60)
    for nothing in ({}, {'retry-after': 'soon'}, {'retry-after': '-3'}, {'retry-after': 'inf'}):
        assert retry_after(nothing) is None
    assert retry_after({'retry-after': 'nan'}) is None


def error(status, message, **more):
    return status, {'error': {'message': message, 'type': 'invalid_request_error'} | more}


TOO_LONG = {
    'openai': error(
        400,
        "This model's maximum context length is 70 tokens. However, you requested 102 tokens (2 in "
        'the messages, 100 in the completion). Please reduce the length of the messages.',
        code='context_length_exceeded',
        param='messages',
    ),
    'openai, the answer alone': error(
        400,
        'max_tokens is too large: 100. This model supports at most 70 completion tokens.',
        param='max_tokens',
    ),
    'text-generation-inference': (
        422,
        {
            'error': 'Input validation error: `inputs` tokens + `max_new_tokens` must be <= 70. '
            'Given: 2 `inputs` tokens and 100 `max_new_tokens`',
            'error_type': 'validation',
        },
    ),
    'dashscope': error(400, 'Range of input length should be [1, 70]', code='InvalidParameter'),
    'llama.cpp': error(
        500,
        'the request exceeds the available context size, try increasing it',
        type='server_error',
    ),
    'a proxy': (413, b'<html>413 Request Entity Too Large</html>'),
}


@pytest.mark.parametrize('server', TOO_LONG)
def test_too_long_a_request_is_asked_with_fewer_tokens(server):
    """Whatever the words: the small question is answered, so that this request is at fault."""
    body = BODY | {'max_tokens': 100}
    rules = {'rules': lambda body: TOO_LONG[server] if body['max_tokens'] > 70 else None}
    reply, client, served, _ = ask(['ok'], body, server=rules)
    asked = [sent['max_tokens'] for sent in served.bodies if sent['messages'] == body['messages']]
    # A server's own fault may pass, and is tried thrice.
    tries = 3 if TOO_LONG[server][0] == 500 else 1
    assert (
        asked == tries * [100] + [80, 64] and reply.sent == body | {'max_tokens': 64} and reply.text
    )
    control = next(sent for sent in served.bodies if sent['messages'] != body['messages'])
    assert control == body | {'messages': [{'role': 'user', 'content': '1+1=?'}], 'max_tokens': 16}
    assert reply.attempts == len(served.bodies) == sum(client.counters.retries.values()) + 2


def test_a_request_that_stays_too_long_is_given_up():
    long = {'rules': lambda body: TOO_LONG['openai'] if body['messages'] == ASKED else None}
    body = BODY | {'max_tokens': 60}
    ASKED = body['messages']
    reply, _, served, _ = ask(['ok'], body, server=long)
    assert [sent['max_tokens'] for sent in served.bodies] == [60, 16, 48, 38, 30, 24, 19]
    assert reply.error.startswith('refused (400)') and 'maximum context length' in reply.error
    # Without a length to lower there is nothing to try.
    bare = {k: v for k, v in BODY.items() if k != 'max_tokens'}
    reply, _, served, _ = ask(['ok'], bare, server=long)
    assert reply.error.startswith('refused (400)') and len(served.log) == 2
    # And not for ever.
    reply, _, served, _ = ask(
        ['ok'], BODY | {'max_tokens': 9000}, server=long, retries=Retries(shortenings=3)
    )
    assert len(served.log) == 5 and reply.error.startswith('refused (400)')


MODERATED = {
    'deepseek': error(400, 'Content Exists Risk'),
    'dashscope': error(
        400, 'Input data may contain inappropriate content.', code='data_inspection_failed'
    ),
    'zhipu': (
        400,
        {
            'error': {
                'code': '1301',
                'message': '系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入'
                '易产生敏感内容的提示语，感谢您的配合。',
            },
            'contentFilter': [{'level': 1, 'role': 'user'}],
        },
    ),
    'openrouter': error(403, 'Input was flagged', code=403, metadata={'reasons': ['violence']}),
    'azure': error(
        400,
        "The response was filtered due to the prompt triggering Azure OpenAI's content management "
        'policy.',
        code='content_filter',
        param='prompt',
    ),
    'legal': (451, b'Unavailable For Legal Reasons'),
}


@pytest.mark.parametrize('server', MODERATED)
def test_a_prompt_that_the_servers_filter_refuses_is_given_up_alone(server):
    rules = {'rules': lambda body: MODERATED[server] if body['messages'] == ASKED else None}
    ASKED = BODY['messages']
    reply, _, served, time = ask(['ok'], server=rules, price=Price(1.0, 1.0))
    assert reply.error.startswith(f'refused ({MODERATED[server][0]})') and reply.text == ''
    # Asked once, then the small question, which is paid for.
    assert [line['what'] for line in served.log] == [f'{MODERATED[server][0]} ruled', 'ok']
    assert reply.attempts == 2 and reply.cost_usd > 0 and time.slept == []


def test_what_is_at_the_server_is_awaited_when_the_run_ends_in_doubt():
    async def run():
        drain = Drain()

        def rules(body):
            return MODERATED['deepseek'] if body == BODY else None

        async with (
            Server(content=content, delay=0.3, rules=rules) as served,
            Client(served.url) as client,
        ):
            asking = asyncio.ensure_future(client.ask(Request(0, BODY), drain))
            while len(served.log) < 2:  # the small question is there
                await asyncio.sleep(0.01)
            drain.begin()
            return await asking

    reply = asyncio.run(run())
    assert reply.error.startswith('refused (400)') and reply.completion_tokens > 0


def test_a_refusal_waits_for_others_that_are_under_way():
    """And is then known to be the request's own, without the small question."""

    async def run():
        bad = [{'role': 'user', 'content': '坏'}]

        def rules(body):
            return MODERATED['zhipu'] if body['messages'] == bad else None

        async with (
            Server(content=content, delay=0.05, keep_bodies=True, rules=rules) as served,
            Client(served.url) as client,
        ):
            asked = [client.ask(Request(0, BODY | {'messages': bad}))]
            asked += [client.ask(Request(n, BODY | {'user': str(n)})) for n in (1, 2)]
            return await asyncio.gather(*asked), served.bodies

    (refused, *others), bodies = asyncio.run(run())
    assert refused.error.startswith('refused (400)') and all(reply.text for reply in others)
    assert len(bodies) == 3


FATAL = {
    '401': ({'server': {'key': 'another'}}, 'does not accept the key.*OPENAI_API_KEY'),
    '402': ({'server': {'rules': lambda body: error(402, 'Insufficient Balance')}}, 'balance is'),
    '403': ({'script': ['403']}, "refuses every request, even '1.1=.': refused .403.: .*this is 4"),
    '404': ({'server': {'model': 'large'}}, "does not know the model 'small'.*/v1"),
    '400': ({'script': ['400']}, 'refuses every request.* .400.: .*temperature must be at most 2'),
    '429 quota': ({'script': ['429 quota']}, 'quota or balance is used up'),
    '307': ({'script': ['307']}, 'sends us on to another address .307.'),
}


@pytest.mark.parametrize('status', FATAL)
def test_what_every_request_would_meet_stops_soon(status):
    options, sentence = FATAL[status]
    with pytest.raises(Refused, match=sentence) as caught:
        ask(**{'script': ['ok'], **options})
    assert str(caught.value).count('\n') == 0


def test_a_redirect_names_its_target():
    async def redirect(reader, writer):
        await reader.readuntil(b'\r\n\r\n')
        writer.write(
            b'HTTP/1.1 308 X\r\nLocation: https://host/v1/chat/completions\r\n'
            b'Content-Length: 0\r\n\r\n'
        )
        writer.close()
        await writer.wait_closed()

    async def run():
        server = await asyncio.start_server(redirect, '127.0.0.1', 0)
        port = server.sockets[0].getsockname()[1]
        async with server, Client(f'http://127.0.0.1:{port}/v1') as client:
            await client.ask(Request(0, BODY))

    with pytest.raises(Refused, match=r'sends us on to https://host/v1/chat/completions \(308\)'):
        asyncio.run(run())


UNKNOWN = {
    'gpt-5, its length': (
        'max_tokens',
        error(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            param='max_tokens',
            code='unsupported_parameter',
        ),
    ),
    'gpt-5, its temperature': (
        'temperature',
        error(
            400,
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the "
            'default (1) value is supported.',
            param='temperature',
            code='unsupported_value',
        ),
    ),
    'openai, long ago': (
        'logit_bias',
        error(400, 'Unrecognized request argument supplied: logit_bias'),
    ),
    'pydantic': (
        'stop',
        (
            422,
            {
                'detail': [
                    {
                        'type': 'extra_forbidden',
                        'loc': ['body', 'stop'],
                        'msg': 'Extra inputs are not permitted',
                        'input': ['\n20.'],
                    }
                ]
            },
        ),
    ),
    'pydantic, its length': (
        'max_tokens',
        (422, {'detail': [{'loc': ['body', 'max_tokens'], 'msg': 'Extra inputs', 'input': 64}]}),
    ),
    'xai': ('stop', (400, {'code': 'Client specified', 'error': 'Argument not supported: stop'})),
}
FULL = BODY | {'temperature': 0.7, 'stop': ['\n20.'], 'logit_bias': {'50256': -100}}


@pytest.mark.parametrize('server', UNKNOWN)
def test_a_field_that_the_server_refuses_by_name_is_renamed_or_left_out_once(server):
    name, refusal = UNKNOWN[server]

    async def run():
        def rules(body):
            return refusal if name in body else None

        async with (
            Server(content=content, keep_bodies=True, rules=rules) as served,
            Client(served.url) as client,
        ):
            first = await client.ask(Request(0, FULL))
            second = await client.ask(Request(1, FULL))
            return first, second, served.bodies, client.counters.changes

    first, second, bodies, changes = asyncio.run(run())
    expected = {field: value for field, value in FULL.items() if field != name}
    if name == 'max_tokens':
        expected['max_completion_tokens'] = FULL['max_tokens']
    assert bodies == [FULL, expected, expected]
    assert first.text and second.text and first.sent == second.sent == expected
    assert (first.attempts, second.attempts) == (2, 1)
    assert len(changes) == 1 and changes[0].startswith(f'{name} is ')


def test_what_was_sent_is_what_was_answered_whatever_is_learnt_meanwhile():
    """The second request is answered in its first form, after the first one's was refused."""
    refusal = error(400, "Unknown parameter: 'temperature'.", param='temperature')

    def rules(body):
        return refusal if 'temperature' in body and body['user'] == 'first' else None

    async def run():
        async with (
            Server(content=content, delay=0.3, rules=rules) as served,
            Client(served.url) as client,
        ):
            bodies = [FULL | {'user': user} for user in ('first', 'second')]
            first = asyncio.ensure_future(client.ask(Request(0, bodies[0])))
            await asyncio.sleep(0.15)
            return bodies, await client.ask(Request(1, bodies[1])), await first

    bodies, second, first = asyncio.run(run())
    assert second.sent is None and second.attempts == 1
    assert first.sent == {name: v for name, v in bodies[0].items() if name != 'temperature'}


def test_a_server_that_takes_little_is_learnt_field_by_field():
    """A strict imitation: what it does not know, or knows no more, it names and refuses."""
    known = {'model', 'messages', 'max_completion_tokens', 'n'}

    def strict(body):
        for name in body:
            if name not in known:
                return error(400, f"Unknown parameter: '{name}'.", param=name)
        return None

    reply, client, served, _ = ask(['ok'], FULL, server={'rules': strict})
    assert reply.text and len(client.counters.changes) == 4
    assert served.bodies[-1] == {
        'model': 'small', 'messages': BODY['messages'], 'max_completion_tokens': 64
    }  # fmt: skip


def test_half_a_character_hurts_nobody(monkeypatch):
    # JSON can write a character that was cut in two, UTF-8 cannot.
    monkeypatch.setattr(api_server, '_json', lambda value: json.dumps(value).encode())

    async def run(text):
        async with (
            Server(content=lambda body, chance: ('好\ud83d', 'length')) as served,
            Client(served.url) as client,
        ):
            body = BODY | {'messages': [{'role': 'user', 'content': text}]}
            return await client.ask(Request(0, body))

    assert asyncio.run(run('你好')).text == '好\ufffd'
    reply = asyncio.run(run('半\ud83d'))
    assert reply.text == '' and reply.error.startswith('no text: half a character in the prompt')


def test_without_a_key_only_a_local_server_is_asked(monkeypatch):
    monkeypatch.delenv('OPENAI_API_KEY')
    assert ask(['ok'])[0].text
    with pytest.raises(Refused, match='no key for https://api.openai.com/v1: set.*OPENAI_API_KEY'):
        Client()
    with pytest.raises(Refused, match='no key'):
        Client('http://192.168.1.5:8000/v1')
    for local in ('http://localhost:8000/v1', 'http://[::1]:8000/v1', 'http://0.0.0.0:80/v1'):
        assert Client(local).url == local


@pytest.mark.parametrize(
    'url',
    ['localhost:8000', 'ftp://host/v1', 'http://', '/v1', 'http://a b/v1', 'http://h:99999/v1'],
)
def test_a_base_url_that_is_none_is_named(url):
    with pytest.raises(ValueError, match=f'base URL {url!r}'):
        Client(url)


def test_the_base_url_of_the_environment_is_taken(monkeypatch):
    monkeypatch.setenv('OPENAI_BASE_URL', 'http://somewhere:1/v1')
    assert Client().url == 'http://somewhere:1/v1'
    assert Client('http://user:secret@elsewhere:1/v1').url == 'http://elsewhere:1/v1'


def test_the_key_is_in_no_reply_error_or_repr():
    async def at_once(_):
        await asyncio.sleep(0)

    def echo(body, chance):
        return f'你的密钥是{KEY}。', 'stop'

    async def run(script, **options):
        async with Server(script=script, content=echo, **options) as served:
            breaker = Breaker(2, first_deadline=0.0, deadline=0.0, sleep=at_once)
            async with Client(
                served.url, breaker=breaker, retries=Retries(first_delay=0), sleep=at_once
            ) as client:
                shown = [repr(client), repr(client._connection)]
                try:
                    reply = await client.ask(Request(0, BODY))
                    return [*shown, repr(reply), reply.text, reply.error]
                except (ValueError, OSError) as error:
                    return [*shown, ''.join(traceback.format_exception(error)), repr(error)]

    assert '你的密钥是[key]。' in asyncio.run(run(['ok']))
    texts = (
        asyncio.run(run(['ok']))
        + asyncio.run(run(['401'], key=KEY))
        + asyncio.run(run(['500', '500']))
    )
    for fault in ('403', '404', '400', '500', 'drop', 'half json'):
        texts += asyncio.run(run([fault]))
    assert not any(KEY in text for text in texts)
    assert any('403' in text for text in texts)


def test_limits_space_requests_and_tokens():
    async def run():
        time = Time()
        limits = Limits(60, 6000, clock=time.clock, sleep=time.sleep)
        starts = []
        for tokens in (100, 100, 300, 50, 50):
            await limits.acquire(tokens)
            starts.append(time.now - 1000)
        # 60 requests a minute are one a second; 6,000 tokens a minute 100 a second.
        assert starts == [0, 1, 2, 5, 6]
        # The last but one took nothing, so the tokens of 50 come back; requests stay spaced.
        limits.settle(50, 0)
        await limits.acquire(600)
        limits.settle(600, 100)
        await limits.acquire(1)
        starts = [time.now - 1000]
        assert starts == [8]

    asyncio.run(run())


@pytest.mark.parametrize('limits', [{'requests_per_minute': 0}, {'tokens_per_minute': -1}])
def test_limits_of_nothing_are_refused(limits):
    with pytest.raises(ValueError, match='let nothing through'):
        Limits(**limits)


def test_no_minute_holds_more_requests_than_the_limit():
    async def run():
        waits = []

        async def sleep(seconds):
            waits.append(seconds)

        # The clock stands still, as when 100 ask at once: each is told its own moment.
        limits = Limits(30, clock=lambda: 0.0, sleep=sleep)
        for _ in range(100):
            await limits.acquire(1)
        moments = [0.0, *waits]
        assert len(moments) == 100
        for start in moments:
            assert sum(start <= moment < start + 60 for moment in moments) <= 30

    asyncio.run(run())


def test_while_the_breaker_is_open_one_probe_at_a_time_goes_out():
    async def run():
        time, events, left = Time(), [], 7
        breaker = Breaker(5, clock=time.clock, sleep=time.sleep, longest_pause=6.0)
        together = asyncio.Barrier(5)

        async def worker(name):
            nonlocal left
            for attempt in range(9):
                probe = await breaker.enter()
                if attempt == 0:
                    await together.wait()
                events.append((name, probe, time.now - 1000))
                await asyncio.sleep(0)
                try:
                    if left > 0:
                        left -= 1
                        breaker.failed(Failure('500'), None, 'url')
                    else:
                        breaker.succeeded()
                        return
                finally:
                    breaker.leave(probe)
                if attempt == 0:
                    await together.wait()

        await asyncio.gather(*(worker(name) for name in 'abcde'))
        return events, time.slept, breaker

    events, slept, breaker = asyncio.run(run())
    # Five failures open it; two probes fail, the pause doubling, and the third is answered. They
    # take turns, so that one bad request does not speak for the server.
    assert [probe for _, probe, _ in events] == [False] * 5 + [True] * 3 + [False] * 4
    assert [moment for _, _, moment in events] == [0] * 5 + [1, 3] + [7] * 5
    assert len({name for name, probe, _ in events if probe}) == 3
    assert [seconds for seconds in slept if seconds] == [1, 2, 4] and not breaker.is_open


def test_a_server_that_is_down_ends_the_run_with_a_sentence():
    async def run():
        time = Time()
        async with Server(script=['503']) as served:
            breaker = Breaker(
                4, clock=time.clock, sleep=time.sleep, deadline=300.0, longest_pause=50.0
            )
            client = Client(served.url, breaker=breaker, clock=time.clock, sleep=time.sleep)
            async with client:
                asked = [client.ask(Request(n, BODY | {'user': str(n)})) for n in range(8)]
                replies = await asyncio.gather(*asked, return_exceptions=True)
            return replies, served.log, time.now - 1000

    replies, log, took = asyncio.run(run())
    sentences = [str(reply) for reply in replies if isinstance(reply, Unreachable)]
    assert sentences and '503: error, test, this is 503' in sentences[0]
    silent = re.search(r'has not answered for (\d+) s; the last of \d+ failures', sentences[0])
    assert silent and int(silent[1]) >= 300 and 'journal' in sentences[0]
    # Pauses double from 1 to 50 s, so that few requests bother the server.
    assert took >= 300 and len(log) < 40


HOPELESS = {
    'a page': ((200, b'<!DOCTYPE html><html>Welcome</html>'), 'web page: check the address.* /v1'),
    'a stream': ((200, b'data: {"choices": []}\n\ndata: [DONE]'), 'streams alone'),
    'an error': ((200, {'error': {'message': '模型未部署'}}), '模型未部署'),
    'a balance': (error(429, '余额不足或无可用资源包,请充值。', code='1113'), '余额不足'),
}


@pytest.mark.parametrize('what', HOPELESS)
def test_a_failure_that_is_the_same_from_the_start_ends_within_about_a_minute(what):
    said, sentence = HOPELESS[what]

    async def run():
        time = Time()
        async with Server(rules=lambda body: said) as served:
            breaker = Breaker(clock=time.clock, sleep=time.sleep)
            client = Client(served.url, breaker=breaker, clock=time.clock, sleep=time.sleep)
            async with client:
                with pytest.raises(Unreachable, match=sentence):
                    while True:
                        await client.ask(Request(0, BODY))
        return time.now - 1000, client.counters.newest

    took, newest = asyncio.run(run())
    assert 60 <= took < 130 and newest


def test_a_slow_first_answer_is_waited_for():
    """Each attempt gets twice the time of the one before; nobody says that nobody is there."""

    async def run():
        async with Server(content=content, delay=0.5) as served:
            retries = Retries(attempt_timeout=0.15, first_delay=0.0)
            breaker = Breaker(first_deadline=0.2, deadline=60.0)
            async with Client(served.url, breaker=breaker, retries=retries) as client:
                return await client.ask(Request(0, BODY)), client.counters

    reply, counters = asyncio.run(run())
    assert reply.text and reply.attempts == 3 and counters.retries == {'time-out': 2}
    assert counters.newest == 'time-out: no answer within 0.3 s'


def test_a_server_that_is_always_too_slow_is_told_with_the_flag():
    async def run():
        async with Server(script=['hang']) as served:
            retries = Retries(attempt_timeout=0.1, first_delay=0.0, deadline=0.2, attempts=99)
            breaker = Breaker(first_deadline=0.0, deadline=0.5)
            async with Client(served.url, breaker=breaker, retries=retries) as client:
                with pytest.raises(Unreachable, match='more time with --timeout'):
                    while True:
                        await client.ask(Request(0, BODY))

    asyncio.run(run())


def test_a_proxy_that_cannot_be_used_is_a_sentence(monkeypatch):
    async def run():
        async with Client('http://192.0.2.1:8000/v1'):
            pass

    monkeypatch.setenv('ALL_PROXY', 'gopher://127.0.0.1:1')
    with pytest.raises(ValueError, match='no client for http://192.0.2.1:8000/v1.*ALL_PROXY'):
        asyncio.run(run())
    monkeypatch.setenv('ALL_PROXY', 'socks5://127.0.0.1:1')
    monkeypatch.setitem(sys.modules, 'socksio', None)
    with pytest.raises(ValueError, match=r"belle-jax\[socks\]'"):
        asyncio.run(run())


def test_an_address_where_nobody_listens_ends_soon():
    async def run():
        async with Server() as served:
            url = served.url
        time = Time()
        breaker = Breaker(clock=time.clock, sleep=time.sleep, first_deadline=30.0)
        async with Client(url, breaker=breaker, clock=time.clock, sleep=time.sleep) as client:
            with pytest.raises(Unreachable, match=f'{url} has not answered.*check the address'):
                while True:
                    await client.ask(Request(0, BODY))
        assert time.now - 1000 < 100

    asyncio.run(run())


def test_a_server_that_asks_to_wait_for_hours_ends_the_run():
    with pytest.raises(
        Unreachable, match='for 0 s and asks to wait 7200 s; the last of 1 failures'
    ):
        ask(['429 after'], server={'retry_after': '7200'}, breaker=Breaker(1))


def test_the_breaker_waits_as_long_as_the_server_asks():
    async def run():
        time = Time()
        async with Server(script=['429 after', 'ok'], retry_after='40', content=content) as served:
            breaker = Breaker(1, clock=time.clock, sleep=time.sleep)
            async with Client(
                served.url, breaker=breaker, clock=time.clock, sleep=time.sleep
            ) as client:
                assert (await client.ask(Request(0, BODY))).attempts == 2
        assert 40 <= time.now - 1000 <= 42

    asyncio.run(run())
