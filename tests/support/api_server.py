"""A local language-model server for tests: speaks OpenAI's protocol, and misbehaves as it is told.

    python tests/support/api_server.py --port=0 --fault_rate=0.4 --log=requests.jsonl

It prints its address. Faults depend on the seed, the body and how often this body came, and end
after --most_faults of them, so that every request is answered in the end, and always the same. Each
request is a line of the log, written before it is answered: key (of the body, as `body_key` gives
it), attempt, what (ok or the fault) and endpoint. In a process of its own, or inside an event loop:

    async with Server(script=['500', 'ok']) as server: ... server.url ... server.log
"""

import argparse
import asyncio
import contextlib
import email.utils
import hashlib
import importlib
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

import api_replies

FAULTS = (
    '429', '429 after', '429 date', '500', '503', 'drop', 'drop midway', 'hang', 'half json',
    'not json', 'empty choices', 'error in reply',
)  # fmt: skip
HEAD = b'HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n'


def body_key(body: dict) -> str:
    """What names a body in the log: the digest of its JSON."""
    text = json.dumps(body, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


class Server:
    """Listens on this machine while its context is open.

    Attributes:
        url: The base URL, with /v1.
        log: Of every request: key, attempt, what, endpoint.
        bodies: The bodies, if `keep_bodies`.
        charged: For each answer its body's key, tokens of the prompt and tokens in all.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        delay: float = 0.0,
        seed: int = 0,
        fault_rate: float = 0.0,
        most_faults: int = 3,
        faults: tuple[str, ...] = FAULTS,
        script: list[str] | None = None,
        content=api_replies.self_instruct,
        log: str | None = None,
        key: str | None = None,
        model: str | None = None,
        context: int | None = None,
        retry_after: str = '1',
        keep_bodies: bool = False,
        rules=None,
        twist=None,
    ) -> None:
        """Listens to nothing yet.

        Args:
            port: 0 for any.
            delay: Seconds until each answer.
            seed: Of faults and replies.
            fault_rate: Chance of each attempt to fail, up to `most_faults` a body.
            most_faults: Of one body.
            faults: Those to draw from; hang holds the connection without an answer.
            script: What happens to the attempts at each body, instead; its last goes on.
            content: Makes replies, as api_replies says.
            log: A file for `log`, as JSON lines.
            key: The only one that is let in.
            model: The only one there is.
            context: Tokens of prompt (one a character) and max_tokens that are refused beyond.
            retry_after: What `429 after` and 503 ask for.
            keep_bodies: Whether to keep them.
            rules: Gets each body, and gives a status with what is sent for it (an object, or bytes
                as they are), or None.
            twist: Gets each body and its good reply, and gives the reply that is sent.
        """
        self._port, self._delay, self._seed = port, delay, seed
        self._fault_rate, self._most, self._faults = fault_rate, most_faults, faults
        self._files = contextlib.ExitStack()
        self._file: TextIO | None = None
        self._script, self._content, self._key = script, content, key
        self._model, self._context, self._retry_after = model, context, retry_after
        self._path = log
        self._attempts: Counter[str] = Counter()
        self._connections: set[_Connection] = set()
        self._keep, self._rules, self._twist = keep_bodies, rules, twist
        self.log: list[dict] = []
        self.bodies: list[dict] = []
        self.charged: list[tuple[str, int, int]] = []
        self.url = ''

    async def __aenter__(self) -> 'Server':
        if self._path:
            opened = Path(self._path).open('a', buffering=1)  # noqa: SIM115 (closed in __aexit__)
            self._file = self._files.enter_context(opened)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), '127.0.0.1', self._port, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f'http://127.0.0.1:{self._port}/v1'
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        self._files.close()

    def answer(self, connection: '_Connection', target: str, head: bytes, content: bytes) -> None:
        """Answers one request, now or after the delay."""
        endpoint = target.rpartition('/v1/')[2]
        if endpoint == 'models':
            listed = {'object': 'list', 'data': [{'id': self._model or 'test', 'object': 'model'}]}
            connection.send(200, _json(listed))
            return
        body = json.loads(content)
        key = body_key(body)
        attempt = self._attempts[key]
        self._attempts[key] += 1
        ruled = self._rules(body) if self._rules else None
        what = self._refuse(body, head, endpoint) or self._fault(key, attempt)
        what = f'{ruled[0]} ruled' if ruled and what == 'ok' else what
        line = {'key': key, 'attempt': attempt, 'what': what, 'endpoint': endpoint}
        self.log.append(line)
        if self._file:
            self._file.write(json.dumps(line) + '\n')
        if self._keep:
            self.bodies.append(body)
        loop = asyncio.get_running_loop()
        if ruled and what.endswith('ruled'):
            said = ruled[1] if isinstance(ruled[1], bytes) else _json(ruled[1])
            loop.call_later(self._delay, connection.send, ruled[0], said)
            return
        loop.call_later(self._delay, self._do, what, connection, key, body, endpoint)

    def _refuse(self, body: dict, head: bytes, endpoint: str) -> str:
        """A mistake of whoever asks, which every attempt would make again."""
        if self._key and f'authorization: bearer {self._key}'.lower() not in head.decode().lower():
            return '401'
        known = endpoint in ('chat/completions', 'completions')
        if not known or (self._model and body.get('model') != self._model):
            return '404'
        length = len(_prompt(body)) + (body.get('max_tokens') or 0)
        return '400 context' if self._context and length > self._context else ''

    def _fault(self, key: str, attempt: int) -> str:
        """What happens to an attempt: the same whenever it comes."""
        if self._script is not None:
            return self._script[min(attempt, len(self._script) - 1)]
        if attempt >= self._most:
            return 'ok'
        chance = random.Random(f'{self._seed} {key} {attempt}')
        return chance.choice(self._faults) if chance.random() < self._fault_rate else 'ok'

    def _do(
        self, what: str, connection: '_Connection', key: str, body: dict, endpoint: str
    ) -> None:
        """Answers, or does not."""
        if what == 'hang':
            return
        if what == 'drop':
            connection.abort()
            return
        said = {} if what[:1].isdigit() else self._reply(key, body, endpoint)
        reply = _json(said)
        if said and what in ('ok', 'broken off', 'empty choices'):
            # What is charged: of answers that come to nothing too.
            usage = said['usage']
            self.charged.append((key, usage['prompt_tokens'], usage['total_tokens']))
        if what == 'ok':
            connection.send(200, reply)
        elif what == 'drop midway':
            connection.send(200, reply, cut=len(reply) // 2)
        elif what == 'half json':
            connection.send(200, reply[: len(reply) // 2])
        elif what == 'not json':
            connection.send(200, b'<html><body>Bad gateway</body></html>')
        elif what == 'broken off':
            choice = json.loads(reply)['choices'][0] | {'finish_reason': 'error'}
            connection.send(200, _json({**json.loads(reply), 'choices': [choice]}))
        elif what == 'empty choices':
            connection.send(200, _json({**json.loads(reply), 'choices': []}))
        elif what == 'error in reply':
            connection.send(200, _json({'error': {'message': 'upstream went away'}}))
        else:
            self._error(what, connection, body)

    def _error(self, what: str, connection: '_Connection', body: dict) -> None:
        """A status that is not a success, with OpenAI's words for it."""
        messages = {
            '400': ('invalid_request_error', 'temperature must be at most 2'),
            '400 context': (
                'context_length_exceeded',
                f"This model's maximum context length is {self._context} tokens. "
                'Please reduce your prompt; or completion length.',
            ),
            '400 filter': ('content_filter', 'The prompt triggered the content management policy'),
            '401': ('invalid_api_key', f'Incorrect API key provided: {self._key}.'),
            '404': ('model_not_found', f'The model {body.get("model")} does not exist'),
            '429 quota': ('insufficient_quota', 'You exceeded your current quota'),
        }
        code, message = messages.get(what, ('error', f'this is {what}'))
        headers = b''
        if what in ('429 after', '503'):
            headers = b'Retry-After: %s\r\n' % self._retry_after.encode()
        elif what == '429 date':
            now = int(time.time())
            dates = [email.utils.formatdate(t, usegmt=True).encode() for t in (now, now + 1)]
            headers = b'Date: %s\r\nRetry-After: %s\r\n' % tuple(dates)
        error = {'error': {'code': code, 'message': message, 'type': 'test'}}
        connection.send(int(what.split()[0]), _json(error), headers)

    def _reply(self, key: str, body: dict, endpoint: str) -> dict:
        """A whole and good reply; the same for the same body."""
        text, reason = '2', 'stop'  # to the question that tells whether all are refused
        if _prompt(body) != '1+1=?':
            text, reason = self._content(body, random.Random(f'{self._seed} {key}'))
        chat = endpoint.startswith('chat')
        said = {'message': {'role': 'assistant', 'content': text}} if chat else {'text': text}
        prompt, answer = len(_prompt(body)), len(text)
        reply = {
            'id': f'test-{key[:16]}',
            'object': 'chat.completion' if chat else 'text_completion',
            'created': 1,
            'model': body.get('model'),
            'choices': [{'index': 0, 'finish_reason': reason, **said}],
            'usage': {
                'prompt_tokens': prompt,
                'completion_tokens': answer,
                'total_tokens': prompt + answer,
            },
        }
        return self._twist(body, reply) if self._twist else reply


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with kept connections, just enough of it."""

    def __init__(self, server: Server) -> None:
        self._server, self._bytes = server, b''

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        head, found, rest = self._bytes.partition(b'\r\n\r\n')
        if not found:
            return
        _, given, length = head.lower().partition(b'\r\ncontent-length:')
        size = int(length.split(b'\r\n')[0]) if given else 0
        if len(rest) >= size:
            self._bytes = rest[size:]
            target = head.split(b' ', 2)[1].decode()
            self._server.answer(self, target, head, rest[:size])

    def send(
        self, status: int, content: bytes, headers: bytes = b'', cut: int | None = None
    ) -> None:
        """A response; with `cut` only that many bytes of it, and then nobody is there."""
        if self._transport.is_closing():
            return
        self._transport.write(HEAD % (status, len(content), headers) + content[:cut])
        if cut is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hangs up without a word."""
        self._transport.abort()


def _prompt(body: dict) -> str:
    return body.get('prompt') or ''.join(m['content'] for m in body.get('messages', ()))


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


async def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--port', type=int, default=0)
    parser.add_argument('--delay', type=float, default=0.0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--fault_rate', type=float, default=0.0)
    parser.add_argument('--most_faults', type=int, default=3)
    parser.add_argument('--faults', type=lambda names: tuple(names.split(',')), default=FAULTS)
    parser.add_argument('--content', default='api_replies:self_instruct')
    parser.add_argument('--rules')
    parser.add_argument('--twist')
    parser.add_argument('--log')
    parser.add_argument('--key')
    parser.add_argument('--model')
    parser.add_argument('--context', type=int)
    parser.add_argument('--retry_after', default='1')
    options = vars(parser.parse_args())
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    for option in ('content', 'rules', 'twist'):
        module, _, name = (options[option] or '').partition(':')
        options[option] = getattr(importlib.import_module(module), name) if module else None
    async with Server(**options) as server:
        print(server.url, flush=True)
        await asyncio.get_running_loop().create_future()


if __name__ == '__main__':
    asyncio.run(main())
