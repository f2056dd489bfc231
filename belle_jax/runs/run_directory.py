"""Reading a run directory: its configuration, and the arrays of its newest good checkpoint by
slices.

Neither JAX nor Orbax is needed: TensorStore reads the files that Orbax wrote (OCDBT holding Zarr),
any slice of any array, on any machine, whatever mesh wrote them.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from belle_jax.families import Architecture
from belle_jax.runs import manifest
from belle_jax.weights.tensors import Index

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
TOKENIZER = 'tokenizer'
SOURCE = 'source'
ACCOUNT = 'data.json'
METRICS = 'metrics/metrics.jsonl'
CACHE = 64 * 2**20  # bytes for TensorStore: the index of the OCDBT file and chunks half used


def is_run_directory(path: Path) -> bool:
    """Whether a directory is a run directory, or one of its checkpoints."""
    return _split(path) is not None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run.

    Attributes:
        run: The run directory.
        step: Optimiser steps taken.
        config: The values of the run's `config.json`.
        architecture: The model.
        rejected: For each newer checkpoint that was passed over, the sentence that says why.
    """

    run: Path
    step: int
    config: dict[str, Any]
    architecture: Architecture
    rejected: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """`RUN/checkpoints/STEP`."""
        return self.run / CHECKPOINTS / str(self.step)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The newest checkpoint of a run that its manifest vouches for, or the very one that is named.

    Args:
        path: A run directory, or `RUN/checkpoints/STEP`.
    Raises:
        ValueError: there is no good checkpoint; each damage is named.
    """
    path = Path(path)
    if (found := _split(path)) is None:
        raise ValueError(
            f'{path} is no run directory: it has no {CONFIG} beside {CHECKPOINTS}/. Give '
            '--workdir of a training run, or one of its checkpoints.'
        )
    run, step = found
    config, architecture = _config(run / CONFIG)
    folder = run / CHECKPOINTS
    steps = [step] if step is not None else sorted(map(int, _steps(folder)), reverse=True)
    rejected: list[str] = []
    for candidate in steps:
        try:
            manifest.verify(folder / str(candidate))
        except ValueError as error:
            rejected.append(str(error))
        else:
            return Checkpoint(run, candidate, config, architecture, tuple(rejected))
    reasons = ' '.join(rejected) or 'No step was saved.'
    raise ValueError(f'{folder} has no checkpoint that can be used. {reasons}')


def read_architecture(path: Path) -> Architecture:
    """The model of a run, from its configuration alone.

    Args:
        path: A run directory or one of its checkpoints.
    """
    return _config(root(path) / CONFIG)[1]


def root(path: Path) -> Path:
    """The run directory that a path is, or that a checkpoint lies in."""
    found = _split(path)
    if found is None:
        raise ValueError(f'{path} is no run directory and no checkpoint of one.')
    return found[0]


class Arrays:
    """The parameters of a checkpoint, read by slices.

    Attributes:
        shapes: Shape by name.
        dtypes: dtype by name, as stored.
    """

    def __init__(self, checkpoint: Checkpoint):
        import tensorstore as ts

        self._ts = ts
        self._context = ts.Context({'cache_pool': {'total_bytes_limit': CACHE}})
        self._base = checkpoint.directory / 'state'
        metadata = json.loads((self._base / '_METADATA').read_text('utf-8'))
        self._driver = 'zarr3' if metadata.get('use_zarr3') else 'zarr'
        self._stores: dict[str, Any] = {}
        for entry in metadata['tree_metadata'].values():
            keys = [k['key'] for k in entry['key_metadata']]
            if keys[0] == 'params':
                self._stores['.'.join(keys[1:])] = self._open('.'.join(keys))
        self.shapes = {name: tuple(s.shape) for name, s in self._stores.items()}
        self.dtypes = {name: s.dtype.numpy_dtype for name, s in self._stores.items()}

    def _open(self, key: str) -> Any:
        base = {'driver': 'file', 'path': f'{self._base.absolute()}/'}
        spec = {
            'driver': self._driver,
            'kvstore': {'driver': 'ocdbt', 'base': base, 'path': f'{key}/'},
        }
        return self._ts.open(spec, open=True, read=True, context=self._context).result()

    def read(self, name: str, index: Index) -> np.ndarray:
        """A slice of a parameter, in the dtype it is stored in."""
        return self._stores[name][index].read().result()

    def chunk(self, name: str) -> tuple[int, ...]:
        """Shape of the pieces that a parameter is stored in; one is always read as a whole."""
        return tuple(self._stores[name].chunk_layout.read_chunk.shape)


def _split(path: Path) -> tuple[Path, int | None] | None:
    """The run directory, and the step where a checkpoint was named."""
    if (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir():
        return path, None
    path = path.absolute()
    if path.name.isdigit() and path.is_dir() and path.parent.name == CHECKPOINTS:
        return path.parent.parent, int(path.name)
    return None


def _steps(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.isdigit() and p.is_dir()]


def _config(path: Path) -> tuple[dict[str, Any], Architecture]:
    try:
        config = json.loads(path.read_text('utf-8'))
        architecture = config['model']['architecture']
    except FileNotFoundError as error:
        raise ValueError(f'{path} is missing: restore it from where the run was made.') from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is no configuration of a run ({error!r}).') from error
    if not architecture:
        raise ValueError(f'{path} has no model.architecture: restore it from the run.')
    return config, Architecture.from_dict(architecture)
