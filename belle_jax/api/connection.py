"""The way to one server: address, key, connections, and what its answers and errors mean."""

import ipaddress
import json
import logging
import os
import re
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from belle_jax.api.request import Failure, Refused

if TYPE_CHECKING:
    import openai

DEFAULT_URL = 'https://api.openai.com/v1'
PATHS = {'chat': '/chat/completions', 'completion': '/completions'}
# The HTTP library looks through all connections of a pool for each request: 256 in one pool took
# 2.6 ms of CPU a request, 32 in each of eight 1.4 ms.
CONNECTIONS_PER_POOL = 32
# A shorter one is a placeholder of a local server, as "EMPTY" is, and may well stand in a text.
SECRET_LENGTH = 16
# Worth another try: time-out, conflict, too early, too many requests.
RETRIED = frozenset({408, 409, 425, 429})
# How servers say that prompt and answer together are too long: OpenAI's code and its older
# sentence, which vLLM and llama.cpp vary.
TOO_LONG = re.compile(
    'reduce your prompt|reduce the length|context_length|maximum context length|context size'
)
# A prompt that the server's own filter refuses says nothing about the other prompts.
FILTERED = re.compile('content_filter|content_policy|content management policy')


class Connection:
    """Sends bodies with the official client library."""

    def __init__(self, base_url: str | None) -> None:
        """Connects to nothing yet.

        Args:
            base_url: As in https://host/v1; by default OPENAI_BASE_URL or OpenAI's.
        Raises:
            ValueError: for an address that is none.
            Refused: if OPENAI_API_KEY is not set, unless the server is on this machine.
        """
        base_url = (base_url or os.environ.get('OPENAI_BASE_URL') or DEFAULT_URL).strip()
        parts = _parts(base_url)
        # A password in the address must not come into messages.
        self.url = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()
        # At absl's level it prints a line a request.
        log = logging.getLogger('httpx2')
        if log.level == logging.NOTSET:
            log.setLevel(logging.WARNING)
        local = _is_local(parts.hostname or '')
        key = os.environ.get('OPENAI_API_KEY', '').strip()
        if not key and not local:
            raise Refused(f'no key for {self.url}: set the variable OPENAI_API_KEY to it.')
        if not key.isascii() or not key.isprintable():
            raise Refused('OPENAI_API_KEY holds characters that no key has: copy it once more.')
        self._secret = key if len(key) >= SECRET_LENGTH else ''
        # The server on this machine is not behind the proxy that the environment names.
        self._key, self._base_url, self._proxies = key or 'none', base_url, not local
        self._pools: list[openai.AsyncOpenAI] = []
        self._busy: list[int] = []

    def load(self) -> None:
        """Loads the client library, which takes half a second: no request should wait for it."""
        import openai

        self._openai = openai

    async def post(self, endpoint: str, body: dict[str, Any]) -> bytes:
        """Sends a body as it stands.

        Args:
            endpoint: chat or completion.
            body: Any fields, as servers know more than OpenAI's.
        Returns:
            The body of a response with status 200, without our key should it be in there.
        Raises:
            Failure, Refused: for everything else.
        """
        failed: Exception | None = None
        content = b''
        pool = self._free_pool()
        self._busy[pool] += 1
        try:
            content = await self._pools[pool].post(
                PATHS[endpoint],
                cast_to=bytes,
                body=body,
                # Whole attempts are timed outside: the library's times are between two bytes.
                options={'timeout': None, 'follow_redirects': False},
            )
        except UnicodeEncodeError:
            failed = Failure('no text', 'half a character in the prompt', action='give up')
        except self._openai.APIError as error:
            failed = self._failure(error, str(body.get('model', '')))
        finally:
            self._busy[pool] -= 1
        if failed is not None:
            # Raised out here, it brings no exception of the library along: that holds the headers.
            raise failed
        return content.replace(self._secret.encode(), b'[key]') if self._secret else content

    def _free_pool(self) -> int:
        """The first pool with room, or a new one."""
        for pool, busy in enumerate(self._busy):
            if busy < CONNECTIONS_PER_POOL:
                return pool
        self._pools.append(
            self._openai.AsyncOpenAI(
                api_key=self._key,
                base_url=self._base_url,
                max_retries=0,  # the library's know nothing of the journal
                http_client=self._openai.DefaultAsyncHttpxClient(trust_env=self._proxies),
            )
        )
        self._busy.append(0)
        return len(self._pools) - 1

    def _failure(self, error: 'openai.APIError', model: str) -> Failure | Refused:
        """What to do about a request that failed so; Refused where no request can do better."""
        if isinstance(error, self._openai.APITimeoutError):
            return Failure('time-out', answered=False)
        if not isinstance(error, self._openai.APIStatusError):
            # The library's message is "Connection error." alone; its cause says which.
            return Failure('connection', self._without_key(_cause(error)), answered=False)
        status, said, url = error.status_code, self._without_key(_said(error)), self.url
        low = said.lower()
        if status == 429 and 'insufficient_quota' in low:
            return Refused(f"{url}: the account's quota is used up: {said}")
        if status in RETRIED or status >= 500:
            return Failure(str(status), said, headers=error.response.headers)
        if status == 401:
            # Servers repeat the key in this message, so it is not shown.
            return Refused(
                f'{url} does not accept the key: check the variable OPENAI_API_KEY (401).'
            )
        if status == 403:
            return Refused(f'{url}: this key may not do this (403): {said}')
        if status == 404:
            return Refused(
                f'{url} does not know the model {model!r}, or is not the address of an API (404): '
                f'{said}. Check the model name, and that the base URL ends as the server wants it, '
                'as in /v1.'
            )
        if status in (400, 413) and TOO_LONG.search(low):
            return Failure('too long', said, action='shorten')
        if status == 400 and FILTERED.search(low):
            return Failure('refused prompt', said, action='give up')
        return Refused(f'{url} refuses the request ({status}): {said}')

    def _without_key(self, text: str) -> str:
        """A text of the server with our key taken out."""
        return text.replace(self._secret, '[key]') if self._secret else text

    async def close(self) -> None:
        """Closes all connections."""
        for pool in self._pools:
            await pool.close()

    def __repr__(self) -> str:
        return f'Connection({self.url!r})'


def _parts(base_url: str) -> urllib.parse.SplitResult:
    """The parts of an address that can be asked."""
    wrong = ValueError(
        f'the base URL {base_url!r} is not an address like http://localhost:8000/v1.'
    )
    try:
        parts = urllib.parse.urlsplit(base_url)
        # Reading the port checks it.
        good = parts.scheme in ('http', 'https') and parts.hostname and parts.port != 0
    except ValueError:
        raise wrong from None
    if not good or any(c.isspace() for c in base_url):
        raise wrong
    return parts


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost' or host.endswith('.localhost')


def _said(error: 'openai.APIStatusError') -> str:
    """The server's own words, short, with the code that some put beside the message."""
    body = error.body
    if isinstance(body, dict):
        words = [body.get('code'), body.get('type'), body.get('message') or body.get('detail')]
        said = ', '.join(str(w) for w in words if w) or json.dumps(body, ensure_ascii=False)
    else:
        said = str(body or error.response.reason_phrase)
    return ' '.join(said.split())[:500]


def _cause(error: BaseException) -> str:
    """The innermost cause of an exception, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return ' '.join(f'{type(error).__name__} {error}'.split())[:200]


@dataclass(frozen=True)
class Answer:
    """What a response holds: its text, why that ended, and what the server counted."""

    text: str
    finish_reason: str | None
    usage: dict[str, Any]


def read_answer(content: bytes) -> Answer:
    """Reads the body of a response with status 200.

    Args:
        content: The bytes, of either endpoint.
    Returns:
        The first choice's text.
    Raises:
        Failure: for half a JSON, a page, no choices, or an error that was sent as a success.
    """
    try:
        body = json.loads(content)
    except ValueError:
        raise Failure('bad JSON', _start(content)) from None
    if not isinstance(body, dict):
        raise Failure('bad JSON', _start(content))
    usage = body.get('usage')
    usage = usage if isinstance(usage, dict) else {}
    choices = body.get('choices')
    if not choices and body.get('error'):
        said = json.dumps(body['error'], ensure_ascii=False)[:200]
        raise Failure('error in reply', said, usage=usage)
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Failure('empty choices', _start(content), usage=usage)
    choice = choices[0]
    message = choice.get('message')
    text = message.get('content') if isinstance(message, dict) else choice.get('text')
    if isinstance(text, list):
        text = ''.join(str(p.get('text') or '') for p in text if isinstance(p, dict))
    # A content of null is an answer: the model said nothing, or a filter took it away.
    reason = choice.get('finish_reason')
    return Answer(_whole(str(text or '')), None if reason is None else str(reason), usage)


def _whole(text: str) -> str:
    """The text with half characters marked: a cut emoji may come as a lone surrogate, which no
    file and no database takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
    return text


def _start(content: bytes) -> str:
    return ' '.join(content[:120].decode('utf-8', 'replace').split())
