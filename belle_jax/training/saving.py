"""What a run saves, and from where it goes on: the trained part again and again, the rest once."""

from collections.abc import Mapping
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from belle_jax.files import remove
from belle_jax.runs import run_directory
from belle_jax.runs.checkpoints import Checkpoints
from belle_jax.training.setup import Setup
from belle_jax.training.start import Start
from belle_jax.training.step import State


class Saving:
    """Saves a run's trained part again and again, its frozen part once."""

    def __init__(self, start: Start, setup: Setup, plan: str, steps: int):
        """Opens the folders; `plan` is the fingerprint of batches, `steps` those of the run."""
        train = start.run.train
        self._start, self._setup, self._plan, self._steps = start, setup, plan, steps
        self.checkpoints = Checkpoints(
            start.workdir / run_directory.CHECKPOINTS,
            train.keep_last,
            train.keep_best,
            workdir=start.saved_to,
        )

    def restore(self) -> tuple[int, State]:
        """The last good checkpoint, or the beginning: steps done, and the state.

        Raises:
            ValueError: the checkpoint is of a run with other batches.
        """
        step, like = self.checkpoints.newest(), self._setup.shapes
        meta = {} if step is None else self.checkpoints.meta(step)
        named = self._start.base is not None
        if step is None or not meta.get('optimiser', True):  # nothing was trained here yet
            state = self._setup.state(self._start.parameters(self._setup))
            self._keep_frozen({} if named else state.frozen)
            return 0, state
        self._check(step, meta)
        trainable, optimiser = self.checkpoints.restore(step, like.trainable, like.optimiser)
        frozen = self._start.frozen(self._setup) if named else self._kept_frozen()
        return step, State(trainable, frozen, optimiser)

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
        if self._start.base is not None and self._start.identity != meta.get('source'):
            raise self._start.held.another('model.source')
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
        if self._start.saved_to.apart or jax.process_index() == 0:
            remove(folder)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('frozen')
        if frozen:
            checkpoints = Checkpoints(folder, workdir=self._start.saved_to)
            checkpoints.save(0, frozen, {}, {})
            checkpoints.close()

    def _kept_frozen(self) -> dict[str, jax.Array]:
        like = self._setup.shapes.frozen
        if not like:
            return {}
        folder = self._start.workdir / run_directory.FROZEN
        checkpoints = Checkpoints(folder, workdir=self._start.saved_to)
        step = checkpoints.newest()
        if step is None:
            raise ValueError(
                f'{checkpoints.directory} does not hold the frozen parameters of the run any more: '
                'restore it from a copy, or start again with a new --workdir.'
            )
        return checkpoints.restore(step, like, {})[0]
