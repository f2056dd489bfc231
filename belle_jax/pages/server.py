"""A page's small server, for the person at this machine alone.

A browser lets any web site send requests to 127.0.0.1. So each request must carry a random token,
which stands in the address, and must come by a name that no web site can have, from no other page.
"""

import contextlib
import functools
import hmac
import http.server
import importlib.resources
import ipaddress
import json
import secrets
import socket
import socketserver
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

HERE = '127.0.0.1'
LARGEST = 4 << 20  # bytes of what a page may send
PATIENCE = 30.0  # seconds for a request to arrive
TYPES = {'css': 'text/css', 'js': 'text/javascript'}
HEADERS = {
    'Cache-Control': 'no-store',
    'Content-Security-Policy': (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}
# Takes what a request says (a GET its query, a POST its JSON); text that comes back is a page,
# anything else goes as JSON. Its ValueError is a sentence for the page, as is its OSError.
Route = Callable[[Any], Any]


class RefusedRequest(Exception):
    """A request that gets no answer but its status and a sentence."""

    def __init__(self, sentence: str, status: HTTPStatus = HTTPStatus.FORBIDDEN) -> None:
        super().__init__(sentence)
        self.status = status


class PageServer(http.server.ThreadingHTTPServer):
    """Serves one page at `address`, until it is stopped."""

    daemon_threads = True

    def __init__(
        self,
        get: Mapping[str, Route],
        post: Mapping[str, Route],
        assets: Sequence[str],
        host: str = HERE,
        port: int = 0,
    ) -> None:
        """Takes the port; `serve` answers.

        Args:
            get: What is read, by its path behind the token; '' is the page itself.
            post: What changes something, likewise. Each request has a thread of its own.
            assets: Style sheets and scripts of this folder that the page loads.
            host: The address to listen at. Any but this machine's own lets others in who learn the
                page's address, and nothing is encrypted on the way.
            port: 0 takes one that is free.
        Raises:
            ValueError: it is not possible to listen there.
        """
        self.get = {**get, **{name: functools.partial(_asset, name) for name in assets}}
        self.post = post
        self.host, self.token = host, secrets.token_urlsafe(24)
        self.address_family = socket.AF_INET6 if ':' in host else socket.AF_INET
        try:
            super().__init__((host, port), _Request)
        except (OSError, OverflowError) as error:
            reason = (getattr(error, 'strerror', None) or str(error)).lower()
            raise ValueError(
                f'--host={host} --port={port} cannot be listened at ({reason}): give another '
                '--port, or 0 for one that is free.'
            ) from error

    def server_bind(self) -> None:
        """Without asking for the machine's name, for which a resolver may take its time."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def address(self) -> str:
        """What a browser is to open."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'http://{host}:{self.server_port}/{self.token}/'

    def serve(self) -> None:
        """Prints the address and answers, until Ctrl-C."""
        if not ipaddress.ip_address(str(self.server_address[0])).is_loopback:
            print(
                f'--host={self.host} lets in whoever reaches this machine and learns the address; '
                'nothing is encrypted on the way.'
            )
        print(f'Open {self.address}\nCtrl-C ends it.', flush=True)
        with self, contextlib.suppress(KeyboardInterrupt):
            self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone away is nobody's mistake; the rest is told as ever."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Request(http.server.BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = PATIENCE

    def do_GET(self) -> None:
        self._answer(self.server.get, self._query)

    def do_POST(self) -> None:
        self._answer(self.server.post, self._body)

    def _answer(self, routes: Mapping[str, Route], read: Callable[[], Any]) -> None:
        status = HTTPStatus.OK
        try:
            route = routes[self._path(routes)]
            said = route(read())
        except RefusedRequest as refused:
            status, said = refused.status, {'error': str(refused)}
        except ValueError as error:
            status, said = HTTPStatus.BAD_REQUEST, {'error': str(error)}
        except OSError as error:
            status, said = HTTPStatus.INTERNAL_SERVER_ERROR, {'error': str(error)}
        kind, text = said if isinstance(said, tuple) else ('text/html', said)
        if not isinstance(text, str):
            # Half characters stay escapes; and should a browser ever take it for a page, no tag
            # begins in it.
            kind, text = 'application/json', json.dumps(text).replace('<', '\\u003c')
        content = text.encode(errors='replace')
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header('Content-Type', f'{kind}; charset=utf-8')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _path(self, routes: Mapping[str, Route]) -> str:
        """The path behind the token, of a request that may be answered."""
        host, origin = self.headers.get('Host', ''), self.headers.get('Origin')
        # A site's own name can be made to lead here (DNS rebinding); a number cannot. The port may
        # be another, as that of a tunnel.
        if not self._is_ours(host):
            raise RefusedRequest(f'this server is not {host[:80]!r}: use the address it gave.')
        if origin is not None and origin != f'http://{host}':
            raise RefusedRequest('another page asks for this, and may not.')
        _, token, *path = f'{urllib.parse.urlsplit(self.path).path}/'.split('/')
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise RefusedRequest('the address lacks its token: use the one that was printed.')
        name = '/'.join(path).rstrip('/')
        if name not in routes:
            raise RefusedRequest(f'there is nothing at {name[:80]!r}.', HTTPStatus.NOT_FOUND)
        return name

    def _is_ours(self, host: str) -> bool:
        try:
            name = urllib.parse.urlsplit(f'//{host}').hostname or ''
            return name in ('localhost', self.server.host) or bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))

    def _body(self) -> Any:
        # No form of a web page can send this type.
        if self.headers.get_content_type() != 'application/json':
            raise RefusedRequest('JSON alone is taken.', HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        length = self.headers.get('Content-Length', '')
        if not (length.isascii() and length.isdigit()):
            raise RefusedRequest(
                'the request does not tell its length.', HTTPStatus.LENGTH_REQUIRED
            )
        if len(length) > 9 or int(length) > LARGEST:
            most = f'at most {LARGEST:,} bytes are taken at once.'
            raise RefusedRequest(most, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            return json.loads(self.rfile.read(int(length)))
        except RecursionError as error:
            raise ValueError('the JSON is nested too deeply.') from error

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the address, with its token, stays where it was printed."""


def _asset(name: str, query: Any) -> tuple[str, str]:
    text = (importlib.resources.files('belle_jax.pages') / name).read_text('utf-8')
    return TYPES[name.rpartition('.')[2]], text
