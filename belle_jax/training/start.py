"""Where a run begins: its architecture, its tokenizer, its parameters."""

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from belle_jax import config, families, models
from belle_jax.config import Architecture, Run
from belle_jax.data import Tokenizer, tokenizer
from belle_jax.disk import distinct
from belle_jax.files import locked, sweep
from belle_jax.formats import huggingface
from belle_jax.json_files import write_json
from belle_jax.runs import conversion, run_directory
from belle_jax.runs.load import (
    is_quantised,
    open_base,
    open_parameters,
    open_whole,
    read_architecture,
)
from belle_jax.runs.parameters import Parameters, Regrouped, identity, place
from belle_jax.runs.rounded import PACKINGS
from belle_jax.runs.workdir import Workdir
from belle_jax.training.held import Held
from belle_jax.training.setup import Setup
from belle_jax.weights.tensors import DTYPES


class Start:
    """Resolves what a configuration leaves to files: the architecture and the tokenizer."""

    def __init__(self, run: Run, workdir: str | Path | Workdir):
        """Reads them, and holds the run against the one already in the directory.

        Args:
            run: As configured.
            workdir: The run directory.
        Raises:
            ValueError: the directory holds another run, or the tokenizer does not fit.
            OSError: it lies on an object store, which cannot be read.
        """
        self.saved_to = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
        self._keeps = self.saved_to.apart or jax.process_index() == 0  # a directory, by itself
        if self._keeps:
            self.saved_to.fetch()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('workdir')
        self.workdir, self._lock = self.saved_to.path, contextlib.ExitStack()
        run_files = (
            run_directory.CONFIG,
            run_directory.ACCOUNT,
            run_directory.METRICS,
            run_directory.SAMPLES,
        )
        read = {
            '--config.data.path': [source.path for source in run.data.sources],
            '--config.data.validation.path': run.data.validation.path,
            '--config.train.sample_prompts': run.train.sample_prompts,
        }
        distinct(read, {'--workdir': [self.workdir / name for name in run_files]})
        self.held, self.identity = Held(self.workdir), None
        kept = self.held.run if self.held.converted else None
        if kept and kept.adapter.rank and not run.adapter.rank:
            run = dataclasses.replace(run, adapter=kept.adapter)  # that of PEFT's files
        # A converted directory has its own parameters: the source may be gone.
        self._source = str(self.workdir) if self.held.converted else run.model.source
        self.tokenizer = self._tokenizer(run)
        if self.held.run and run.model.source:  # the directory alone is enough to go on
            self.architecture = run_directory.read_architecture(self.workdir)
        else:
            self.architecture = _architecture(run, self.tokenizer)
        if len(self.tokenizer) > self.architecture.vocab_size:
            raise ValueError(
                f'the tokenizer {self.tokenizer.directory} has {len(self.tokenizer)} tokens, more '
                f"than the {self.architecture.vocab_size} rows of the model's embedding: tokens "
                'beyond them have no vector. Give the tokenizer that belongs to the model, or '
                'extend the vocabulary.'
            )
        limit = families.of(self.architecture).context_limit(self.architecture)
        if limit and run.data.seq_len > limit:
            logging.warning(
                f'--config.data.seq_len={run.data.seq_len} is longer than the context of {limit} '
                'tokens: what stands beyond it is trained on, and no answer is ever given there.'
            )
        model = dataclasses.replace(run.model, architecture=self.architecture)
        self.run = dataclasses.replace(run, model=model)
        self.held.check(self.run)

    @functools.cached_property
    def base(self) -> Parameters | None:
        """What is frozen beside an adapter, where that is read from a model."""
        if not self.run.adapter.rank or not self.run.model.source:
            if self.run.model.frozen in PACKINGS:
                raise ValueError(
                    f'--config.model.frozen={self.run.model.frozen} rounds the products of a '
                    'published model, beside which adapters are trained: set '
                    '--config.model.source and --config.adapter.rank.'
                )
            return None
        source, frozen = self.run.model.source, self.run.model.frozen
        base, self.identity = open_base(source, frozen, self.architecture)
        return base

    def parameters(self, setup: Setup) -> dict[str, jax.Array]:
        """The parameters of step 0, placed as the setup says: published ones, or random ones.

        Trained ones are float32, frozen ones as the configuration says; an adapter is as new.
        """
        key = jax.random.key(self.run.seed)
        new = {name for name in setup.specs if '.adapter.' in name}
        wanted = {n: where for n, where in setup.shardings.items() if n not in new}
        if not self._source:
            made = models.initialise(setup.blueprint, key, wanted)
            placed = {n: a.astype(setup.shapes.frozen.get(n, a).dtype) for n, a in made.items()}
        else:
            placed = self._placed(setup, wanted)
        if new := new - placed.keys():
            where = {name: setup.shardings[name] for name in new}
            placed |= models.initialise_adapter(setup.blueprint, key, placed, where)
        return placed

    def frozen(self, setup: Setup) -> dict[str, jax.Array]:
        """What is frozen beside an adapter, read from where it came from."""
        names = setup.shapes.frozen
        grouped: Any = Regrouped(self.base, setup.blueprint.groups)
        how = self.run.model.frozen
        where = {name: setup.shardings[name] for name in names}
        return place(grouped, where, how if how in DTYPES else '')

    def _placed(self, setup: Setup, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The parameters that the source has."""
        if self.base is None or self.held.converted:
            opened = open_parameters if self.held.converted else open_whole
            source = opened(self._source, self.architecture)
            self.identity = self.identity or identity(source)
        else:
            source = self.base
        if self.held.converted:
            self.held.check_source(self.identity, self.run.model.source)
        grouped: Any = Regrouped(source, setup.blueprint.groups)
        how, placed = self.run.model.frozen, {}
        wanted = {name: setup.shardings[name] for name in {*grouped.shapes, *wanted}}
        for part, dtype in (
            (setup.shapes.trainable, 'float32'),
            (setup.shapes.frozen, how if how in DTYPES else ''),
        ):
            placed |= place(grouped, {n: wanted[n] for n in part if n in wanted}, dtype)
        return placed

    def lock(self) -> None:
        """Keeps the directory until `unlock`; if another process does, a ValueError."""
        if not self._keeps:
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        busy = ValueError(
            f'{self.workdir} is being trained in by another process: wait for it, or give '
            'another --workdir.'
        )
        self._lock.enter_context(locked(self.workdir / '.lock', busy))
        weakref.finalize(self, self._lock.close)  # also after an error
        sweep(self.workdir)
        for name in (run_directory.METRICS, run_directory.SAMPLES):
            sweep((self.workdir / name).parent)

    def unlock(self) -> None:
        """Lets the directory go, when all is saved."""
        if self._keeps:
            self.saved_to.send(must=True)
        self._lock.close()

    def save(self, account: Any) -> None:
        """Writes what a run directory says of itself."""
        if jax.process_index() == 0:
            self.workdir.mkdir(parents=True, exist_ok=True)
            config.save(self.run, self.workdir / run_directory.CONFIG)
            if self.held.run is None:
                self._keep_origin()
            write_json(self.workdir / run_directory.ACCOUNT, account.to_dict())
        if self._keeps:  # what cannot be written there is known before the first step
            self.saved_to.send(must=True)

    def _tokenizer(self, run: Run) -> Tokenizer:
        """The directory's own where it holds a model, else the one that is configured.

        Without a config.json what is there has been put there by a person, and stays.
        """
        path, kept = _tokenizer_path(run), self.workdir / run_directory.TOKENIZER
        begun = (self.workdir / run_directory.CONFIG).exists()
        if not kept.is_dir() or (begun and not self.held.run):
            return tokenizer.load(path)
        words = tokenizer.load(kept)
        if not self.held.run or path != _tokenizer_path(self.held.run):
            self.held.check_tokenizer(words, tokenizer.load(path))
        return words

    def _keep_origin(self) -> None:
        """Copies the tokenizer and the source's small files, in place of an earlier start's."""
        words, source = (self.workdir / n for n in (run_directory.TOKENIZER, run_directory.SOURCE))
        if words.resolve() != self.tokenizer.directory.resolve():
            _remove(words, tokenizer.FILES)
            self.tokenizer.save(words)
        if (source / run_directory.ORIGIN).is_file():
            settings = huggingface.SETTINGS_FILES + huggingface.LICENCE_FILES
            _remove(source, (*settings, run_directory.ORIGIN))
        if self._source and not (source / 'config.json').exists():
            conversion.keep_origin(self._source, self.workdir)


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
        if is_quantised(run.model.source) and not run.adapter.rank:
            raise ValueError(
                f'--config.model.source={run.model.source} is quantised: its codes cannot be '
                'trained. Train adapters beside it (--config.adapter.rank=16), or give the model '
                'that it was made from.'
            )
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


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Removes files of these names and no others, and the folder where it was theirs alone."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
