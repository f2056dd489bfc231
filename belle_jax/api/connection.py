"""The way to one server: address, key, connections, and what its answers and errors mean."""

import ipaddress
import json
import logging
import os
import urllib.parse
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
CONNECTING = 15.0  # seconds until a server that does not take the connection is not there


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
        self._busy: dict[openai.AsyncOpenAI, int] = {}  # requests of each pool of connections

    def load(self) -> None:
        """Loads the client library, which takes half a second: no request should wait for it.

        Raises:
            ValueError: the library cannot use the proxy or certificates of the environment.
        """
        import httpx2
        import openai

        self._openai = openai
        # Whole attempts are timed outside: the library's times are between two bytes.
        self._timeout = httpx2.Timeout(None, connect=CONNECTING)
        try:
            self._new_pool()
        except Exception as error:
            remedy = 'mend the variables ALL_PROXY, HTTPS_PROXY, HTTP_PROXY and SSL_CERT_FILE.'
            if isinstance(error, ImportError):
                remedy = "pip install 'belle-jax[socks]', or unset the variable ALL_PROXY."
            raise ValueError(
                f'no client for {self.url} can be made ({_line(error)}): {remedy}'
            ) from error

    async def post(self, endpoint: str, body: dict[str, Any]) -> bytes:
        """Sends a body as it stands.

        Args:
            endpoint: chat or completion.
            body: Any fields, as servers know more than OpenAI's.
        Returns:
            The body of a response with status 200, without our key should it be in there.
        Raises:
            Failure: for everything else.
            Refused: where no request can do better.
        """
        failed: Exception | None = None
        content = b''
        free = (pool for pool, busy in self._busy.items() if busy < CONNECTIONS_PER_POOL)
        pool = next(free, None) or self._new_pool()
        self._busy[pool] += 1
        try:
            content = await pool.post(
                PATHS[endpoint],
                cast_to=bytes,
                body=body,
                options={'timeout': self._timeout, 'follow_redirects': False},
            )
        except UnicodeEncodeError:
            failed = Failure('no text', 'half a character in the prompt', action='give up')
        except self._openai.APIStatusError as error:
            failed = self._refusal(error, str(body.get('model', '')))
        except self._openai.APIError as error:
            # The library's message is "Connection error." alone; its innermost cause says which.
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            failed = Failure('connection', self._without_key(_line(cause)))
        finally:
            self._busy[pool] -= 1
        if failed is not None:
            # Raised out here, it brings no exception of the library along: that holds the headers.
            raise failed
        return content.replace(self._secret.encode(), b'[key]') if self._secret else content

    def _new_pool(self) -> 'openai.AsyncOpenAI':
        pool = self._openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self._base_url,
            max_retries=0,  # the library's know nothing of the journal
            http_client=self._openai.DefaultAsyncHttpxClient(trust_env=self._proxies),
        )
        self._busy[pool] = 0
        return pool

    def _refusal(self, error: 'openai.APIStatusError', model: str) -> Failure | Refused:
        """What to do about a status that is no success; Refused where no request can do better."""
        status, said, url = error.status_code, self._without_key(_said(error)), self.url
        if status == 402 or (status == 429 and 'insufficient_quota' in said):
            return Refused(f"{url}: the account's quota or balance is used up: {said}")
        if status in RETRIED or status >= 500:
            return Failure(str(status), said, headers=error.response.headers, field=_field(error))
        if status == 401:
            # Servers repeat the key in this message, so it is not shown.
            return Refused(
                f'{url} does not accept the key: check the variable OPENAI_API_KEY (401).'
            )
        if status == 404:
            return Refused(
                f'{url} does not know the model {model!r}, or is not the address of an API (404): '
                f'{said}. Check the model name, and that the base URL ends as the server wants it, '
                'as in /v1.'
            )
        if status < 400:
            target = error.response.headers.get('location', 'another address')
            return Refused(
                f'{url} sends us on to {self._without_key(target)} ({status}): if that is the '
                'server that you mean, give its address as the base URL.'
            )
        return Failure(f'refused ({status})', said, action='refused', field=_field(error))

    def _without_key(self, text: str) -> str:
        """A text of the server with our key taken out."""
        return text.replace(self._secret, '[key]') if self._secret else text

    async def close(self) -> None:
        """Closes all connections; what asks later opens others."""
        while self._busy:
            await self._busy.popitem()[0].close()


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
        address = ipaddress.ip_address(host)
        return address.is_loopback or address.is_unspecified
    except ValueError:
        return host == 'localhost' or host.endswith('.localhost')


def _said(error: 'openai.APIStatusError') -> str:
    """The server's own words, short, with the code that some put beside the message."""
    body = error.body
    if isinstance(body, dict):
        words = [body.get('code'), body.get('type'), body.get('message') or body.get('detail')]
        words = [w if isinstance(w, str) else json.dumps(w) for w in words if w]
        said = ', '.join(words) or json.dumps(body, ensure_ascii=False)
    else:
        said = str(body or error.response.reason_phrase)
    said = ' '.join(said.split())[:500]
    return said.encode('utf-8', 'replace').decode()


def _field(error: 'openai.APIStatusError') -> str:
    field = error.body.get('param') if isinstance(error.body, dict) else None
    return field.rpartition('.')[2] if isinstance(field, str) else ''


def _line(error: BaseException) -> str:
    return ' '.join(f'{type(error).__name__} {error}'.split())[:200]
