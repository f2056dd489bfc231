"""The way to one server: its address, the key, and enough connections."""

import ipaddress
import logging
import os
import urllib.parse
from typing import Any

from belle_jax.api.errors import Failure, Refused

DEFAULT_URL = 'https://api.openai.com/v1'
PATHS = {'chat': '/chat/completions', 'completion': '/completions'}
# The HTTP library looks through all connections of a pool for each request: 256 in one pool took
# 2.6 ms of CPU a request, 32 in each of eight 1.4 ms.
CONNECTIONS_PER_POOL = 32
# A shorter one is a placeholder of a local server, as "EMPTY" is, and may well stand in a text.
SECRET_LENGTH = 16


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
        self._pool_of = key or 'none', base_url, not local
        self._pools: list[Any] = []
        self._busy: list[int] = []

    def load(self) -> None:
        """Loads the client library, which takes half a second: no request should wait for it."""
        from belle_jax.api import library

        self._library = library

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
        except self._library.APIError as error:
            model = str(body.get('model', ''))
            failed = self._library.failure(error, model, self.url, self._without_key)
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
        self._pools.append(self._library.pool(*self._pool_of))
        self._busy.append(0)
        return len(self._pools) - 1

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
