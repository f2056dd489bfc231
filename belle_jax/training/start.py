"""Where a run begins: its directory, its architecture, its tokenizer, its first parameters."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from belle_jax import config, models
from belle_jax.config import Architecture, Run
from belle_jax.data import Tokenizer, tokenizer
from belle_jax.files import locked, write_json
from belle_jax.runs import origin, run_directory
from belle_jax.training.setup import Setup
from belle_jax.weights.parameters import Regrouped, place

FIXED = (
    'seed',
    'model',
    'data',
    'batch',
    'optim',
    'train.objective',
    'train.only',
    'train.freeze',
)
FREE = ('attention', 'remat', 'scan', 'cache_dir')
"""What decides the numbers of a run: a run is continued with the values that it began with."""


class Start:
    """Resolves what a configuration leaves to files: the architecture and the tokenizer."""

    def __init__(self, run: Run, workdir: Path):
        """Reads them, and holds the run against the one already in the directory.

        Args:
            run: As configured.
            workdir: The run directory.
        Raises:
            ValueError: the directory holds another run, or the tokenizer does not fit.
        """
        self.workdir, self._lock = workdir, contextlib.ExitStack()
        self._source = run.model.source
        saved = workdir / 'config.json'
        continued = saved.exists()
        kept = workdir / 'tokenizer'
        tokenizer_path = kept if continued and kept.is_dir() else _tokenizer_path(run)
        self.tokenizer = tokenizer.load(tokenizer_path)
        if continued and run.model.source:  # the directory alone is enough to go on
            self.architecture = run_directory.read_architecture(workdir)
        else:
            self.architecture = _architecture(run, self.tokenizer)
        if len(self.tokenizer) > self.architecture.vocab_size:
            raise ValueError(
                f'the tokenizer {tokenizer_path} has {len(self.tokenizer)} tokens, more than the '
                f"{self.architecture.vocab_size} rows of the model's embedding: tokens beyond "
                'them have no vector. Give the tokenizer that belongs to the model, or extend the '
                'vocabulary.'
            )
        self.run = dataclasses.replace(
            run, model=dataclasses.replace(run.model, architecture=self.architecture)
        )
        if continued:
            _check_same(config.load(saved), self.run, workdir)

    def parameters(self, setup: Setup) -> dict[str, jax.Array]:
        """The parameters of step 0, placed as the setup says: published ones, or random ones.

        Trained ones are float32, frozen ones as they were published.
        """
        shardings = setup.shardings
        if not self._source:
            key = jax.random.key(self.run.seed)
            return models.initialise(setup.blueprint, key, shardings)
        from belle_jax.runs.load import open_parameters

        source = open_parameters(self._source, self.architecture)
        grouped: Any = Regrouped(source, setup.blueprint.groups)
        placed = {}
        for names, dtype in (
            (setup.shapes.trainable, 'float32'),
            (setup.shapes.frozen, source.dtype),
        ):
            placed |= place(grouped, {name: shardings[name] for name in names}, dtype)
        return placed

    def lock(self) -> None:
        """Keeps the directory for this run, as long as this object lives.

        Raises:
            ValueError: another process trains in it.
        """
        if jax.process_index():
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        busy = ValueError(
            f'{self.workdir} is being trained in by another process: wait for it, or give '
            'another --workdir.'
        )
        self._lock.enter_context(locked(self.workdir / '.lock', busy))

    def save(self, account: Any) -> None:
        """Writes what a run directory says of itself."""
        if jax.process_index():
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        if not (self.workdir / 'tokenizer').exists():
            self.tokenizer.save(self.workdir / 'tokenizer')
        if self._source and not (self.workdir / 'source').exists():
            origin.keep(self._source, self.workdir)
        write_json(self.workdir / run_directory.ACCOUNT, account.to_dict())
        config.save(self.run, self.workdir / 'config.json')


def _tokenizer_path(run: Run) -> str:
    path = run.data.tokenizer or run.model.source
    if not path:
        raise ValueError(
            '--config.data.tokenizer is not set and there is no --config.model.source to take it '
            'from: give the directory of a tokenizer.'
        )
    return path


def _architecture(run: Run, words: Tokenizer) -> Architecture:
    if run.model.source:
        from belle_jax.runs.load import read_architecture

        return read_architecture(run.model.source)
    architecture = run.model.architecture or config.PRESETS[run.model.preset]
    if architecture.vocab_size:
        return architecture
    return dataclasses.replace(
        architecture,
        vocab_size=len(words),
        bos_id=words.bos_id,
        eos_ids=(words.eos_id,),
        pad_id=words.pad_id,
    )


def _check_same(before: Run, now: Run, workdir: Path) -> None:
    for field in FIXED:
        old: Any = before
        new: Any = now
        for name in field.split('.'):
            old, new = getattr(old, name), getattr(new, name)
        if dataclasses.is_dataclass(old) and dataclasses.is_dataclass(new):
            names = [f.name for f in dataclasses.fields(old)]
            changed = [n for n in names if getattr(old, n) != getattr(new, n)]
            changed = [n for n in changed if n not in FREE]
        else:
            changed = [''] if old != new else []
        if changed:
            name = f'{field}.{changed[0]}'.rstrip('.')
            raise ValueError(
                f'{workdir} holds a run with another --config.{name}: a run is continued with what '
                f'it began with. Give a new --workdir, or the values in {workdir / "config.json"}.'
            )
