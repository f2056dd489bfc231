"""A run from its configuration to its last checkpoint, told in order."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from belle_jax import data, models, signals
from belle_jax.config import Run
from belle_jax.runs.run_directory import read_metrics
from belle_jax.runs.workdir import Workdir
from belle_jax.training import metrics, optim
from belle_jax.training.evaluation import evaluate
from belle_jax.training.samples import Samples
from belle_jax.training.saving import Saving
from belle_jax.training.setup import Setup, lay_out
from belle_jax.training.start import Start

MIN_EVAL_STEPS = 5


class NotFiniteError(ValueError):
    """The loss is not a finite number."""


class Trainer:
    """One run. `train()` does all of it; `self.state` is what it has reached."""

    def __init__(self, run: Run, workdir: str | Path | Workdir, stopping: Any = None):
        """Prepares everything up to the first step, or to the one after the last checkpoint.

        Args:
            run: From `config.resolve`.
            workdir: The run directory, or gs://… or s3://…: made if absent, continued if it
                holds a run.
            stopping: Of several processes, the step at which all stop (`cluster.joined`).
        Raises:
            ValueError: a field, a file or the mesh does not fit; nothing was trained.
        """
        # ─── who am I ────────────────────────────────────────────────────────────────────────────
        start, self._stopping = Start(run, workdir), stopping
        self.workdir = start.workdir
        self.run, self.architecture, tokenizer = start.run, start.architecture, start.tokenizer

        # ─── what it will be asked along the way ─────────────────────────────────────────────────
        asked = self.run.train.sample_prompts
        self.samples = Samples(self.run, tokenizer, self.workdir) if asked else None

        # ─── the mesh, and what is trained on it ─────────────────────────────────────────────────
        layout = lay_out(self.run, self.architecture, source=start.base)

        # ─── the data ────────────────────────────────────────────────────────────────────────────
        self.data = data.prepare(self.run, tokenizer)
        self.plan = self.data.train
        _check_same_rows('data.path', self.plan.fingerprint)
        if self.samples:
            _check_same_rows('train.sample_prompts', self.samples.fingerprint)
        self.steps = self.run.train.steps or self.plan.steps(self.run.train.epochs)
        if self.steps < 1:
            raise ValueError(
                f'--config.train.epochs={self.run.train.epochs} gives no step: the data fill less '
                'than that. Set --config.train.epochs or --config.train.steps higher.'
            )
        optim.check_warmup(self.run.optim, self.steps)
        self.last_step = min(self.steps, self.run.train.max_steps or self.steps)
        self.eval_every = self._interval(self.run.train.eval_every)
        self.save_every = self._interval(
            self.run.train.checkpoint_every or max(self.run.train.eval_every, 0)
        )

        # ─── the step ────────────────────────────────────────────────────────────────────────────
        self.setup = Setup(self.run, layout, self.steps)

        # ─── the state ───────────────────────────────────────────────────────────────────────────
        start.lock()
        self._unlock = start.unlock
        self.saving = Saving(start, self.setup, self.plan.fingerprint, self.steps)
        self.number, self.state = self.saving.restore()
        start.save(self.data.account)
        self.evaluation_loss: float | None = None
        self._stop = self._tracing = False

    def train(self) -> Path:
        """Trains to the end, or until SIGTERM, SIGHUP or Ctrl-C; saves either way.

        Returns:
            The run directory.
        Raises:
            NotFiniteError: the loss is not finite; the last good checkpoint stays.
            OSError: a checkpoint could not be saved.
        """
        wandb, settings = self.run.train.wandb, self.run.to_dict()
        self.recorder = metrics.Recorder(
            self.workdir / 'metrics', self.number, self.last_step, wandb, settings
        )
        if self.samples:
            self.samples.go_on(self.number, self.recorder.say)
        self._introduce()
        # Several processes must stop at the same step.
        alone = self._terminate if jax.process_count() == 1 else signals.interrupt
        heeding = signals.heeding(self._stopping.ask if self._stopping else alone)
        try:
            with heeding, jax.set_mesh(self.setup.mesh):
                self._run()
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what is told
                self.saving.checkpoints.close()
            raise
        finally:
            if self._tracing:
                jax.profiler.stop_trace()
            self.recorder.close()
        self.saving.checkpoints.close()
        if jax.process_index() == 0 and self.number:
            curve = self.workdir / 'metrics' / 'loss.png'
            metrics.draw(read_metrics(self.recorder.path)[0], curve)
            print(f'Loss curve: {curve}')
            if self.samples:
                print(f'Answers along the way: {self.samples.page}')
        self._unlock()
        return self.workdir

    def _run(self) -> None:
        train = self.run.train
        placement = self.setup.placement()
        rows = data.load(self.plan, placement.rows, self.number, self.last_step)
        batches = placement.stream(rows)
        pending: list[tuple[int, Mapping[str, jax.Array]]] = []
        clock, first = time.monotonic(), self.number
        while self.number < self.last_step and not self._must_stop():
            if train.profile_from <= self.number < train.profile_to and not self._tracing:
                jax.profiler.start_trace(str(self.workdir / 'profile'))
                self._tracing = True
            self.state, values = self.setup.step(self.state, next(batches), self.number)
            self.number += 1
            pending.append((self.number, values))
            if self._tracing and self.number >= train.profile_to:
                jax.block_until_ready(values)
                jax.profiler.stop_trace()
                self._tracing = False

            # Looking at a step's loss waits for it: so only at the step before the newest, which
            # leaves the device busy, and at every step that something else waits for.
            due = self.number % train.log_every == 0 or self.number == self.last_step
            evaluating = self._due(self.eval_every) and bool(self.data.validation)
            save = self._due(self.save_every)
            if due or evaluating or save:
                clock = self._report(pending, clock)
                pending = []
            else:
                self._check_finite(pending[:-1])
            if evaluating:
                self._record_evaluation()
                clock = time.monotonic()
            if self.samples and (self._due(self.eval_every) or self.number == self.last_step):
                self._check_finite(pending)  # which waits: the time of steps is not that of answers
                began = time.monotonic()
                self.samples.answer(self.number, self.setup.blueprint, self.state)
                clock += time.monotonic() - began
            if save:
                loss = self.evaluation_loss if evaluating else None
                self.saving.save(self.number, self.state, loss)
            self.saving.checkpoints.check()
        if pending:
            self._report(pending, clock)
        if self._stop:
            self.recorder.say(
                f'Stopped: saving step {self.number}; the same command goes on from there.'
                if self.number
                else 'Stopped before the first step: there is nothing to save.'
            )
        if self.number and self.saving.checkpoints.last_saved != self.number:
            self.saving.save(self.number, self.state, None)
        self.saving.checkpoints.wait()
        if jax.process_count() > 1:  # each says so, in its log
            count = (self.number - first) * self.run.batch.size
            print(f'{placement.read:,} rows were read here, of {count:,} of all', flush=True)

    def _record_evaluation(self) -> None:
        found = evaluate(self.setup, self.state, self.data.validation)
        self.evaluation_loss = found['loss']
        record = {f'evaluation_{name}': value for name, value in found.items()}
        self.recorder.write(self.number, record)

    def _report(self, pending, clock: float) -> float:
        """Waits for the pending steps and records their means; returns the new clock."""
        self._check_finite(pending)
        values = {k: np.array([float(v[k]) for _, v in pending]) for k in pending[0][1]}
        now = time.monotonic()
        rate = values['tokens'].sum() / (now - clock)
        devices = self.setup.mesh.size
        record = {
            **self._reduced(values),
            'grad_norm': float(values['grad_norm'][-1]),
            'learning_rate': float(self.setup.schedule(self.number - 1)),
            'tokens_per_second': rate,
            'tokens_per_second_per_device': rate / devices,
            'memory_bytes': metrics.memory_bytes(),
            'epoch': self.number / max(self.plan.steps(1.0), 1),
        }
        if peak := metrics.peak_flops():
            flops = metrics.training_flops_per_token(
                self.architecture, self.setup.sizes, self.run.data.seq_len
            )
            record['flop_utilisation'] = rate * flops / (peak * devices)
        self.recorder.write(self.number, record)
        return now

    def _reduced(self, values: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Loss and the objective's metrics over some steps."""
        reductions = {'loss': 'mean', **self.setup.objective.reductions}
        weights = values['trained_tokens'] + 1e-9
        return {
            name: float(
                np.average(values[name], weights=weights) if how == 'mean' else values[name].sum()
            )
            for name, how in reductions.items()
        }

    def _check_finite(self, pending) -> None:
        for number, values in pending:
            if not np.isfinite(values['loss']) or not np.isfinite(values['grad_norm']):
                held = self.saving.checkpoints.last_saved is not None  # its run keeps its settings
                raise NotFiniteError(
                    f'the loss of step {number} is not finite (loss {float(values["loss"])}, '
                    f'gradient norm {float(values["grad_norm"])}): training stopped there, and the '
                    'checkpoints before it are intact. Set --config.optim.learning_rate lower'
                    + (', with a new --workdir.' if held else '.')
                )

    def _due(self, every: int) -> bool:
        return every > 0 and (self.number % every == 0 or self.number == self.last_step)

    def _interval(self, every: int) -> int:
        """0: four times an epoch, at least 5 steps apart, as BELLE's trainer; below 0: never."""
        if every:
            return every
        return max(self.plan.steps(1.0) // 4, MIN_EVAL_STEPS)

    @property
    def interrupted(self) -> bool:
        """Whether SIGTERM or Ctrl-C ended training before its last step."""
        return self._stop and self.number < self.last_step

    def _terminate(self) -> None:
        """Ends training after this step."""
        self._stop = True

    def _must_stop(self) -> bool:
        """Whether SIGTERM reached a process; all processes stop at the same step."""
        if self._stopping:
            self._stop = self._stopping.reached(self.number)
        return self._stop

    def _introduce(self) -> None:
        say = self.recorder.say
        mesh, sizes = self.setup.mesh, self.setup.sizes
        total = models.count_parameters(self.setup.blueprint)
        shape = ' × '.join(f'{k} {v}' for k, v in mesh.shape.items())
        devices = f'{mesh.size} × {jax.devices()[0].device_kind} ({shape})'
        say(f'{self.architecture.family}, {total:,} parameters, on {devices}')
        if self.setup.shapes.frozen:
            trained = sum(sizes.values())
            say(f'{trained:,} of {total:,} parameters are trained, the others are frozen')
        say(str(self.data.account))
        say(
            f'{self.steps} steps of {self.run.batch.size} × {self.run.data.seq_len} tokens'
            + (f', from step {self.number}' if self.number else '')
            + (f', up to step {self.last_step}' if self.last_step < self.steps else '')
        )


def _check_same_rows(field: str, fingerprint: str) -> None:
    """All processes must read the same rows, or their parts do not make a batch."""
    ours = np.frombuffer(fingerprint.encode()[:16].ljust(16), np.int32)
    if jax.process_count() > 1 and (multihost_utils.process_allgather(ours) != ours).any():
        raise ValueError(
            f'--config.{field} has other rows on some processes than on others: every host must '
            'see the same files. Put them where all hosts read them.'
        )
