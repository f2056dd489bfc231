"""Writing the files of a delta; their format is described in delta_format."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from belle_jax.diffs.delta import format as delta_format
from belle_jax.diffs.delta.format import Data, Entry
from belle_jax.files import write_text


class Writer:
    """Writes the data files of a delta, and at last its manifest."""

    def __init__(self, directory: Path, max_size: int) -> None:
        """Takes an existing directory, and the bytes that a data file may have."""
        self._directory, self._max_size = directory, max_size
        self._data: list[Data] = []
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._size = 0

    def add(self, block: bytes) -> int:
        """Appends a compressed block; returns its size."""
        if self._file and self._size + len(block) > self._max_size:
            self._end()
        if not self._file:
            path = self._directory / f'delta-{len(self._data) + 1:05d}.zst'
            self._file, self._hash, self._size = path.open('wb'), hashlib.sha256(), 0
        self._file.write(block)
        self._hash.update(block)
        self._size += len(block)
        return len(block)

    def close(self) -> None:
        """Leaves the files as they are; to be called after errors too."""
        if self._file:
            self._file.close()

    def finish(self, base: str, tensors: Sequence[Entry], files: Sequence[Entry]) -> int:
        """Writes the manifest; returns the bytes of the whole delta."""
        self._end()
        values = {
            'format': delta_format.FORMAT,
            'version': delta_format.VERSION,
            'base': base,
            'block': delta_format.BLOCK,
            'data': [{'name': d.path.name, 'size': d.size, 'sha256': d.sha256} for d in self._data],
            'tensors': [dataclasses.asdict(t) for t in tensors],
            'files': [
                {'name': f.name, 'size': f.size, 'sha256': f.sha256, 'blocks': f.blocks}
                for f in files
            ],
        }
        text = json.dumps({'sha256': delta_format.digest(values)} | values) + '\n'
        write_text(self._directory / delta_format.NAME, text)
        return sum(d.size for d in self._data) + len(text.encode())

    def _end(self) -> None:
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._data.append(Data(Path(self._file.name), self._size, self._hash.hexdigest()))
            self._file = None
