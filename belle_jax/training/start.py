"""Where a run begins, what is saved of it, and from where it goes on."""

import contextlib
import dataclasses
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
from belle_jax.files import locked, remove, sweep
from belle_jax.formats import huggingface
from belle_jax.json_files import write_json
from belle_jax.runs import conversion, run_directory
from belle_jax.runs.checkpoints import Checkpoints
from belle_jax.runs.load import is_quantised, open_parameters, read_architecture
from belle_jax.runs.parameters import Regrouped, identity, place
from belle_jax.training.held import Held
from belle_jax.training.setup import Setup
from belle_jax.training.step import State


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
        distinct(read, {'--workdir': [workdir / name for name in run_files]})
        self.workdir, self._lock = workdir, contextlib.ExitStack()
        self.held, self.identity = Held(workdir), None
        # A converted directory has its own parameters: the source may be gone.
        self._source = str(workdir) if self.held.converted else run.model.source
        self.tokenizer = self._tokenizer(run)
        if self.held.run and run.model.source:  # the directory alone is enough to go on
            self.architecture = run_directory.read_architecture(workdir)
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

    def parameters(self, setup: Setup) -> dict[str, jax.Array]:
        """The parameters of step 0, placed as the setup says: published ones, or random ones.

        Trained ones are float32, frozen ones as they were published.
        """
        shardings = setup.shardings
        if not self._source:
            key = jax.random.key(self.run.seed)
            return models.initialise(setup.blueprint, key, shardings)
        source = open_parameters(self._source, self.architecture)
        self.identity = identity(source)
        if self.held.converted:
            self.held.check_source(self.identity, self.run.model.source)
        grouped: Any = Regrouped(source, setup.blueprint.groups)
        placed = {}
        for names, dtype in ((setup.shapes.trainable, 'float32'), (setup.shapes.frozen, '')):
            placed |= place(grouped, {name: shardings[name] for name in names}, dtype)
        return placed

    def lock(self) -> None:
        """Keeps the directory until `unlock`; if another process does, a ValueError."""
        if jax.process_index():
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
        self._lock.close()

    def save(self, account: Any) -> None:
        """Writes what a run directory says of itself."""
        if jax.process_index():
            return
        self.workdir.mkdir(parents=True, exist_ok=True)
        config.save(self.run, self.workdir / run_directory.CONFIG)
        if self.held.run is None:
            self._keep_origin()
        write_json(self.workdir / run_directory.ACCOUNT, account.to_dict())

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


class Saving:
    """Saves a run's trained part again and again, its frozen part once."""

    def __init__(self, start: Start, setup: Setup, plan: str, steps: int):
        """Opens the folders; `plan` is the fingerprint of batches, `steps` those of the run."""
        train = start.run.train
        self._start, self._setup, self._plan, self._steps = start, setup, plan, steps
        self.checkpoints = Checkpoints(
            start.workdir / run_directory.CHECKPOINTS, train.keep_last, train.keep_best
        )

    def restore(self) -> tuple[int, State]:
        """The last good checkpoint, or the beginning: steps done, and the state.

        Raises:
            ValueError: the checkpoint is of a run with other batches.
        """
        step, like = self.checkpoints.newest(), self._setup.shapes
        meta = {} if step is None else self.checkpoints.meta(step)
        if step is None or not meta.get('optimiser', True):  # nothing was trained here yet
            state = self._setup.state(self._start.parameters(self._setup))
            self._keep_frozen(state.frozen)
            return 0, state
        self._check(step, meta)
        trainable, optimiser = self.checkpoints.restore(step, like.trainable, like.optimiser)
        return step, State(trainable, self._kept_frozen(), optimiser)

    def save(self, number: int, state: State, evaluation_loss: float | None) -> None:
        """Starts to save what step `number` has come to."""
        meta = {
            'plan': self._plan,
            'evaluation_loss': evaluation_loss,
            'steps': self._steps,
            'source': self._start.identity,
        }
        self.checkpoints.save(number, state.trainable, state.optimiser, meta)

    def _check(self, step: int, meta: Mapping[str, Any]) -> None:
        """Holds a checkpoint against what this configuration plans."""
        self._start.identity = meta.get('source')
        self._start.held.check_source(self._start.identity, self._start.run.model.source)
        train = self._start.run.train
        if step > min(self._steps, train.max_steps or self._steps):
            name = 'max_steps' if step <= self._steps else 'steps' if train.steps else 'epochs'
            raise ValueError(
                f'{self._start.workdir} is at step {step}, beyond the end that --config.train.'
                f'{name}={getattr(train, name)} sets: nothing is left to train. Set it higher, or '
                'give a new --workdir.'
            )
        if meta.get('plan') not in (None, self._plan):
            raise ValueError(
                f'{self._start.workdir} was trained on other data or batches than this '
                'configuration plans (data, template, seed, batch.size or data.seq_len changed): '
                'continuing would repeat some rows and skip others. Give a new --workdir.'
            )
        if meta.get('steps', self._steps) != self._steps:
            logging.warning(
                f'The run was planned for {meta["steps"]} steps and is now for {self._steps}: the '
                'learning rate follows the new plan.'
            )

    def _keep_frozen(self, frozen: Mapping[str, jax.Array]) -> None:
        """Writes the frozen part, in place of what a start that came to nothing has left."""
        folder = self._start.workdir / run_directory.FROZEN
        if jax.process_index() == 0:
            remove(folder)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('frozen')
        if frozen:
            checkpoints = Checkpoints(folder)
            checkpoints.save(0, frozen, {}, {})
            checkpoints.close()

    def _kept_frozen(self) -> dict[str, jax.Array]:
        like = self._setup.shapes.frozen
        if not like:
            return {}
        checkpoints = Checkpoints(self._start.workdir / run_directory.FROZEN)
        step = checkpoints.newest()
        if step is None:
            raise ValueError(
                f'{checkpoints.directory} does not hold the frozen parameters of the run any more: '
                'restore it from a copy, or start again with a new --workdir.'
            )
        return checkpoints.restore(step, like, {})[0]


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
        if is_quantised(run.model.source):
            raise ValueError(
                f'--config.model.source={run.model.source} is quantised: its codes cannot be '
                'trained. Give the model that it was made from.'
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
