"""What a run directory holds, and which of its checkpoints can be used."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from belle_jax.families import Architecture
from belle_jax.runs import manifest

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
TOKENIZER = 'tokenizer'
SOURCE = 'source'
ACCOUNT = 'data.json'
METRICS = 'metrics/metrics.jsonl'
FROZEN = 'frozen'


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

    @property
    def frozen(self) -> Path | None:
        """`RUN/frozen/0`, with the parameters that are not trained; None if all are."""
        train = self.config.get('train', {})
        return self.run / FROZEN / '0' if train.get('only') or train.get('freeze') else None


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
            f'{path} is not a run directory: it has no {CONFIG} beside {CHECKPOINTS}/. Give '
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
            checkpoint = Checkpoint(run, candidate, config, architecture, tuple(rejected))
            if checkpoint.frozen:
                manifest.verify(checkpoint.frozen)
            return checkpoint
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
        raise ValueError(f'{path} is neither a run directory nor a checkpoint of one.')
    return found[0]


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
        raise ValueError(f'{path} is not the configuration of a run ({error!r}).') from error
    if not architecture:
        raise ValueError(f'{path} has no model.architecture: restore it from the run.')
    return config, Architecture.from_dict(architecture)
