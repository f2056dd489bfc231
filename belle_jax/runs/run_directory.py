"""What a run directory holds, and which of its checkpoints can be used.

Orbax restores a flipped bit or takes a directory without its last file without a word. So each
checkpoint has a manifest beside it, with size and checksum of every file, which is written when it
is complete; a checkpoint without one was never completed, and is not trusted. CRC-32 from zlib: it
finds every single flipped bit and every burst up to 32 bits, reads 3 GB/s on one core and needs no
further package. It does not protect against forgery.
"""

import concurrent.futures
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from belle_jax import config
from belle_jax.families import Architecture
from belle_jax.files import checksum, without_dots, write_text
from belle_jax.formats import huggingface
from belle_jax.json_files import parse_json, read_json

CONFIG = 'config.json'
CHECKPOINTS = 'checkpoints'
TOKENIZER = 'tokenizer'
SOURCE = 'source'
ORIGIN = 'origin.json'
ACCOUNT = 'data.json'
METRICS = 'metrics/metrics.jsonl'
SAMPLES = 'samples/samples.jsonl'
FROZEN = 'frozen'

THREADS = 8  # zlib and reading both release the interpreter's lock


def is_run_directory(path: Path) -> bool:
    """Whether a directory is a run directory, or one of its checkpoints."""
    return _split(path) is not None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run."""

    run: Path  # the run directory
    step: int  # optimiser steps taken
    config: dict[str, Any]  # the values of the run's `config.json`
    architecture: Architecture
    rejected: tuple[str, ...] = ()  # why each newer checkpoint was passed over, in a sentence

    @property
    def directory(self) -> Path:
        """`RUN/checkpoints/STEP`."""
        return self.run / CHECKPOINTS / str(self.step)

    @property
    def frozen(self) -> Path | None:
        """`RUN/frozen/0`, with the parameters that are not trained; None if there is none."""
        train = self.config['train']
        kept = self.config['adapter']['rank'] or train['only'] or train['freeze']
        return self.run / FROZEN / '0' if kept and not self.base else None

    @property
    def base(self) -> str:
        """What an adapter was trained beside, which is read from where it is; '' otherwise."""
        return self.config['model']['source'] if self.config['adapter']['rank'] else ''


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The newest checkpoint of a run that its manifest vouches for, or the very one that is named.

    Args:
        path: A run directory, or `RUN/checkpoints/STEP`.
    Raises:
        ValueError: there is no good checkpoint; each damage is named.
    """
    path = without_dots(path)
    if (found := _split(path)) is None:
        raise ValueError(
            f'{path} is not a run directory: it has no {CONFIG} beside {CHECKPOINTS}/. Give '
            '--workdir of a training run, or one of its checkpoints.'
        )
    run, step = found
    values, architecture = _config(run / CONFIG)
    folder = run / CHECKPOINTS
    saved = (int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())
    steps = [step] if step is not None else sorted(saved, reverse=True)
    rejected: list[str] = []
    for candidate in steps:
        try:
            verify(folder / str(candidate))
        except ValueError as error:
            rejected.append(str(error))
        else:
            checkpoint = Checkpoint(run, candidate, values, architecture, tuple(rejected))
            if checkpoint.frozen:
                verify(checkpoint.frozen)
            return checkpoint
    reasons = ' '.join(rejected) or 'No step was saved.'
    raise ValueError(f'{folder} has no checkpoint that can be used. {reasons}')


def read_architecture(path: Path) -> Architecture:
    """The model of a run, or of one of its checkpoints, from its configuration alone."""
    return _config(root(path) / CONFIG)[1]


def read_origin(run: Path) -> dict[str, Any]:
    """What `source/origin.json` says of the model that a run began with: source, dtype, revision.

    Empty for a run that began with random weights.
    """
    path = run / SOURCE / ORIGIN
    values = huggingface.read_settings(path)
    for name in ('source', 'dtype', 'revision'):
        if not isinstance(values.get(name), str | None):
            raise ValueError(f'{path}: {name}={values[name]!r:.80} must be text: restore the file.')
    return values


def read_metrics(path: Path) -> tuple[list[dict[str, float]], list[bytes]]:
    """As `read_records`, of a metrics file."""

    def whole(record: dict[str, Any]) -> bool:
        values = [value for value in record.values() if value is not None]
        return all(type(v) in (int, float) and abs(v) < math.inf for v in values)

    return read_records(path, whole)


def read_records(
    path: Path, whole: Callable[[dict[str, Any]], bool]
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The records of a file that tells of steps, and the lines that are not one.

    A last line that a kill tore is in neither: its step is done again.

    Args:
        path: JSON lines, each with its `step`; there may be no file yet.
        whole: Whether an object is a record of this file.
    """
    records, damaged = [], []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line, f'{path}:{number}', '')
            if type(record.get('step')) is not int or not whole(record):
                raise ValueError('not a record')
            records.append(record)
        except ValueError:
            if line.endswith(b'\n'):
                damaged.append(line)
    return records, damaged


def root(path: Path) -> Path:
    """The run directory that a path is, or that a checkpoint lies in."""
    return (_split(path) or (path, None))[0]


def _split(path: Path) -> tuple[Path, int | None] | None:
    """The run directory, and the step where a checkpoint was named."""
    if (path / CONFIG).is_file() and (path / CHECKPOINTS).is_dir():
        return path, None
    path = path.absolute()
    if path.name.isdigit() and path.is_dir() and path.parent.name == CHECKPOINTS:
        return path.parent.parent, int(path.name)
    return None


def _config(path: Path) -> tuple[dict[str, Any], Architecture]:
    run = config.load(path)
    if run.model.architecture is None:
        raise ValueError(f'{path} has no model.architecture: restore it from the run.')
    return run.to_dict(), run.model.architecture


# --- manifests ------------------------------------------------------------------------------------


def manifest_of(step_dir: Path) -> Path:
    """`checkpoints/100` -> `checkpoints/100.manifest.json`."""
    return step_dir.with_name(f'{step_dir.name}.manifest.json')


def entries_of(step_dir: Path) -> dict[str, Any]:
    """What a manifest says of the files of a checkpoint that are here."""
    files = _files(step_dir)
    return dict(zip(files, _measured(step_dir, files), strict=True))


def write_manifest(step_dir: Path, entries: Mapping[str, Any] | None = None) -> None:
    """Writes the manifest of a complete checkpoint, `checkpoints/STEP`, atomically.

    One process calls it for a disk, after every process has finished writing.

    Args:
        step_dir: The checkpoint.
        entries: From `entries_of` of all disks that it lies on; by default this one has all of it.
    """
    if entries is None:
        entries = entries_of(step_dir)
    values = {'step': int(step_dir.name), 'files': entries}
    write_text(manifest_of(step_dir), json.dumps(values, indent=1))


def verify(step_dir: Path) -> None:
    """Compares a checkpoint, `checkpoints/STEP`, with its manifest; every byte is read.

    Raises:
        ValueError: the first file that is missing, new, of another size or of other contents is
            named, or the manifest is missing or unreadable.
    """
    manifest = manifest_of(step_dir)
    if not manifest.exists():
        raise ValueError(f'{step_dir} has no manifest ({manifest.name}): it was never completed.')
    try:
        expected = read_json(manifest)['files']
        expected = {name: (int(e['size']), str(e['crc32'])) for name, e in expected.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f'{manifest} is damaged ({error!r}).') from error
    present = set(_files(step_dir))
    for name, (size, _) in expected.items():  # cheap checks on all files before any is read
        if name not in present:
            raise ValueError(f'{step_dir / name} is missing: {step_dir.name} is damaged.')
        if (actual := (step_dir / name).stat().st_size) != size:
            raise ValueError(
                f'{step_dir / name} has {actual} bytes instead of {size}: it is truncated or '
                'damaged.'
            )
    if new := sorted(present - expected.keys()):
        raise ValueError(f'{step_dir / new[0]} is not in {manifest.name}.')
    measured = _measured(step_dir, expected)
    for (name, (_, crc)), actual in zip(expected.items(), measured, strict=True):
        if actual['crc32'] != crc:
            raise ValueError(
                f'{step_dir / name} is damaged: its checksum is {actual["crc32"]} instead of {crc}.'
            )


def _files(step_dir: Path) -> list[str]:
    return sorted(p.relative_to(step_dir).as_posix() for p in step_dir.rglob('*') if p.is_file())


def _measured(step_dir: Path, files: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Size and checksum of each file."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(lambda name: _measure(step_dir / name), files)


def _measure(path: Path) -> dict[str, Any]:
    return {'size': path.stat().st_size, 'crc32': f'{checksum(path):08x}'}
