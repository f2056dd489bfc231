"""Lines of JSON between two processes, and a way around the end that JAX makes of a lost one."""

import contextlib
import json
import socket
import threading
import time
from typing import Any

LONGEST = 1 << 24  # bytes of a message: sums of a large checkpoint can be a million


class Link:
    """A connection to another process.

    Attributes:
        host: What the other calls its machine; '' until it has said so.
        heard: When it last said anything, by the monotonic clock.
        done: Whether it has taken leave.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Takes an open connection over."""
        self.socket = connection
        # A process that is stopped reads nothing; what is meant for it must not hold up the rest.
        connection.settimeout(1.0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host, self.heard, self.done = '', time.monotonic(), False
        self._received = b''
        self._sending = threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends a message; if the other end is gone, its silence will tell."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b'\n')

    def receive(self) -> list[dict[str, Any]]:
        """What has come; to be asked for when there is something.

        Raises:
            EOFError: the other end is gone, or speaks of something else.
        """
        try:
            block = self.socket.recv(1 << 16)
            *lines, self._received = (self._received + block).split(b'\n')
            messages = [json.loads(line) for line in lines]
        except TimeoutError:
            return []
        except (OSError, ValueError) as error:
            raise EOFError from error
        if not (block or messages) or len(self._received) > LONGEST:
            raise EOFError
        if not all(isinstance(message, dict) for message in messages):
            raise EOFError
        self.heard = time.monotonic()
        return messages

    def finish(self) -> None:
        """Sends nothing more; what was sent arrives, whatever still comes from the other end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)


def listen(port: int) -> socket.socket:
    """A socket on all addresses of this machine.

    Raises:
        OSError: the port cannot be had.
    """
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # it is compiled in and turned off
            return socket.create_server(('', port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(('', port))


def detour(host: str, port: int) -> int:
    """Leads connections to a port of this machine on to another's, and keeps them open for good.

    When process 0 dies, the connections to it are closed, and JAX' client of its service ends a
    process some milliseconds later from C++: SIGABRT, and a page of addresses. Behind a detour it
    notices nothing, until it misses heartbeats; by then the watch has said what is to be said.

    Args:
        host: The machine of process 0.
        port: Of JAX' service there.
    Returns:
        The port on 127.0.0.1.
    """
    server = socket.create_server(('127.0.0.1', 0))

    def serve() -> None:
        while True:
            near = server.accept()[0]
            with contextlib.suppress(OSError):  # then JAX waits in vain
                far = socket.create_connection((host, port))
                kept.extend((near, far))
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_pour, args=(source, target), daemon=True).start()

    kept: list[socket.socket] = []
    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1]


def _pour(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
