"""Object stores on this machine, for tests: S3 of moto, Google Cloud Storage of an emulator."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from belle_jax import storage

BUCKET = 'bucket'


@contextlib.contextmanager
def serving(scheme: str) -> Iterator[Any]:
    """A store with a bucket, to which the environment leads; yields its server."""
    start = {'s3': _s3, 'gs': _gs}[scheme]
    with start() as (server, variables), pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        storage._store.cache_clear()
        with contextlib.suppress(FileExistsError):  # moto's stores are those of the process
            storage._store(scheme).mkdir(BUCKET)
        yield server
    storage._store.cache_clear()


@contextlib.contextmanager
def _s3() -> Iterator[tuple[Any, dict[str, str]]]:
    server = pytest.importorskip('moto.server').ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    server.start()
    try:
        place = 'http://{}:{}'.format(*server.get_host_and_port())
        names = ('ENDPOINT_URL', 'ACCESS_KEY_ID', 'SECRET_ACCESS_KEY', 'DEFAULT_REGION')
        values = (place, 'key', 'a-secret', 'us-east-1')
        yield server, {f'AWS_{name}': value for name, value in zip(names, values, strict=True)}
    finally:
        server.stop()


@contextlib.contextmanager
def _gs() -> Iterator[tuple[Any, dict[str, str]]]:
    module: Any = pytest.importorskip('gcp_storage_emulator.server')
    server = module.create_server('127.0.0.1', 0, in_memory=True)
    server.start()
    try:
        place = f'http://127.0.0.1:{server._api._httpd.server_port}'
        yield server, {'STORAGE_EMULATOR_HOST': place, 'GOOGLE_CLOUD_PROJECT': 'p'}
    finally:
        server.stop()


@contextlib.contextmanager
def holding(server: Any, ending: str) -> Iterator[threading.Event]:
    """Has moto hold back what is put under a name, while the block runs, and then refuse it.

    Yields:
        What is set when that has come.
    """
    arrived, over = threading.Event(), threading.Event()
    app = server._server.app

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if environ['REQUEST_METHOD'] != 'PUT' or not environ['PATH_INFO'].endswith(ending):
            return app(environ, start_response)
        arrived.set()
        over.wait(60)
        start_response('503 Slow Down', [])
        return []

    server._server.app = answer
    try:
        yield arrived
    finally:
        over.set()
        server._server.app = app


def names(url: str) -> set[str]:
    """What a place has."""
    return set(storage.Place(url, 'sources').list())


def put(folder: Path, url: str) -> None:
    """Puts a folder's files there, with nothing of what is tested."""
    scheme, key = url.split('://')
    for path in folder.rglob('*'):
        if path.is_file():
            name = f'{key}/{path.relative_to(folder).as_posix()}'
            storage._store(scheme).pipe_file(name, path.read_bytes())
