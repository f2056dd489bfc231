"""Object stores on this machine, for tests: S3 of moto, Google Cloud Storage of an emulator."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from belle_jax import storage

BUCKET = 'bucket'


@contextlib.contextmanager
def serving(scheme: str) -> Iterator[dict[str, str]]:
    """A store with an empty bucket; yields the environment that leads to it."""
    start = {'s3': _s3, 'gs': _gs}[scheme]
    with start() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        storage._store.cache_clear()
        with contextlib.suppress(FileExistsError):  # moto's stores are those of the process
            storage._store(scheme).mkdir(BUCKET)
        yield variables
    storage._store.cache_clear()


@contextlib.contextmanager
def _s3() -> Iterator[dict[str, str]]:
    server = pytest.importorskip('moto.server').ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    logging.getLogger('werkzeug').setLevel(logging.ERROR)
    server.start()
    try:
        yield {
            'AWS_ENDPOINT_URL': 'http://{}:{}'.format(*server.get_host_and_port()),
            'AWS_ACCESS_KEY_ID': 'key',
            'AWS_SECRET_ACCESS_KEY': 'a-secret',
            'AWS_DEFAULT_REGION': 'us-east-1',
        }
    finally:
        server.stop()


@contextlib.contextmanager
def _gs() -> Iterator[dict[str, str]]:
    module: Any = pytest.importorskip('gcp_storage_emulator.server')
    server = module.create_server('127.0.0.1', 0, in_memory=True)
    server.start()
    try:
        port = server._api._httpd.server_port
        yield {'STORAGE_EMULATOR_HOST': f'http://127.0.0.1:{port}', 'GOOGLE_CLOUD_PROJECT': 'p'}
    finally:
        server.stop()


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
