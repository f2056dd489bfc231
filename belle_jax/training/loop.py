"""A run from its configuration to its last checkpoint, told in order."""

import contextlib
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from belle_jax import data, models, sharding
from belle_jax.config import Run
from belle_jax.runs.checkpoints import Checkpoints
from belle_jax.training import metrics as metrics_lib
from belle_jax.training import optim
from belle_jax.training.batches import Placement
from belle_jax.training.objectives import next_token
from belle_jax.training.start import Start
from belle_jax.training.step import State, compile_step, make_evaluation, make_step

MIN_EVAL_STEPS = 5


class NotFiniteError(ValueError):
    """The loss is no number any more."""


class Trainer:
    """One run. `train()` does all of it; `self.state` is what it has reached."""

    def __init__(self, run: Run, workdir: Path, objective: Any = next_token):
        """Prepares everything up to the first step, or to the one after the last checkpoint.

        Args:
            run: From `config.resolve`.
            workdir: The run directory; made if absent, continued if it holds a run.
            objective: What is minimised.
        Raises:
            ValueError: a field, a file or the mesh does not fit; nothing was trained.
        """
        self.workdir = workdir

        # ─── who am I ────────────────────────────────────────────────────────────────────────────
        start = Start(run, workdir)
        self.run, self.architecture, tokenizer = start.run, start.architecture, start.tokenizer

        # ─── the mesh ────────────────────────────────────────────────────────────────────────────
        self.mesh = sharding.make_mesh(self.run.mesh)
        sharding.check_divides(self.architecture, self.mesh)
        batch = self.run.batch
        sharding.check_batch(batch.size // batch.accumulation, self.mesh)

        # ─── the data ────────────────────────────────────────────────────────────────────────────
        self.data = data.prepare(self.run, tokenizer)
        self.plan = self.data.train
        _check_same_plan(self.plan.fingerprint)
        self.steps = self.run.train.steps or self.plan.steps(self.run.train.epochs)
        if self.steps < 1:
            raise ValueError(
                f'--config.train.epochs={self.run.train.epochs} gives no step: the data fill less '
                'than that. Set --config.train.epochs or --config.train.steps higher.'
            )
        self.last_step = min(self.steps, self.run.train.max_steps or self.steps)
        self.eval_every = self._interval(self.run.train.eval_every)
        self.save_every = self._interval(
            self.run.train.checkpoint_every or max(self.run.train.eval_every, 0)
        )
        self.placement = Placement(self.mesh, batch.size, batch.accumulation, self.run.data.seq_len)

        # ─── the step ────────────────────────────────────────────────────────────────────────────
        self.specs = models.specs(self.architecture)
        settings = self.run.model
        self.execution = models.Execution(
            dtype=settings.dtype,
            attention=settings.attention,
            remat=settings.remat,
            scan=settings.scan,
            hidden_dropout=settings.hidden_dropout,
            attention_dropout=settings.attention_dropout,
        )
        self.schedule = optim.schedule(self.run.optim, self.steps)
        self.optimiser = optim.make(self.run.optim, self.steps, self.specs)
        shapes = {n: jax.ShapeDtypeStruct(s.shape, jnp.float32) for n, s in self.specs.items()}
        params = sharding.of_parameters(self.mesh, self.specs)
        replicated = sharding.named(self.mesh, ())
        self.shardings = State(
            params, optim.state_shardings(self.optimiser, shapes, params, replicated)
        )
        step = make_step(
            self.architecture, self.execution, objective, self.optimiser, self.run.seed
        )
        self.step_fn = compile_step(step, self.shardings, self.mesh)
        self.evaluate_fn = jax.jit(
            make_evaluation(self.architecture, self.execution, objective), out_shardings=replicated
        )

        # ─── the state ───────────────────────────────────────────────────────────────────────────
        start.lock()
        self.checkpoints = Checkpoints(
            workdir / 'checkpoints', self.run.train.keep_last, self.run.train.keep_best
        )
        self.number, self.state = self._state(start, shapes)
        start.save(self.data.account)
        self.evaluation_loss: float | None = None
        self._stop = self._tracing = False

    def train(self) -> Path:
        """Trains to the end, or until SIGTERM or Ctrl-C; saves either way.

        Returns:
            The run directory.
        Raises:
            NotFiniteError: the loss is not finite; the last good checkpoint stays.
            OSError: a checkpoint could not be saved.
        """
        self.recorder = metrics_lib.Recorder(
            self.workdir / 'metrics',
            self.number,
            self.last_step,
            self.run.train.wandb,
            self.run.to_dict(),
        )
        self._introduce()
        # Several processes must stop at the same step: JAX's own handler sees to that.
        alone = jax.process_count() == 1
        signals = (signal.SIGTERM, signal.SIGINT) if alone else ()
        previous = {number: signal.signal(number, self._terminate) for number in signals}
        try:
            with jax.set_mesh(self.mesh):
                self._run()
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what is told
                self.checkpoints.close()
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self._tracing:
                jax.profiler.stop_trace()
            self.recorder.close()
        self.checkpoints.close()
        if jax.process_index() == 0:
            curve = self.workdir / 'metrics' / 'loss.png'
            metrics_lib.draw(metrics_lib.read(self.recorder.path), curve)
            print(f'Loss curve: {curve}')
        return self.workdir

    def _run(self) -> None:
        train = self.run.train
        batches = self.placement.stream(
            data.load(self.plan, self.placement.rows, self.number, self.last_step)
        )
        pending: list[tuple[int, Mapping[str, jax.Array]]] = []
        clock = time.monotonic()
        while self.number < self.last_step and not self._must_stop():
            if train.profile_from <= self.number < train.profile_to and not self._tracing:
                jax.profiler.start_trace(str(self.workdir / 'profile'))
                self._tracing = True
            (params, optimiser), values = self.step_fn(
                self.state.params, {}, self.state.optimiser, next(batches), np.int32(self.number)
            )
            self.state = State(params, optimiser)
            self.number += 1
            pending.append((self.number, values))
            if self._tracing and self.number >= train.profile_to:
                jax.block_until_ready(values)
                jax.profiler.stop_trace()
                self._tracing = False

            # Looking at a step's loss waits for it: so only at the step before the newest, which
            # leaves the device busy, and at every step that something else waits for.
            due = self.number % train.log_every == 0 or self.number == self.last_step
            evaluate = self._due(self.eval_every) and self.data.validation is not None
            save = self._due(self.save_every)
            if due or evaluate or save:
                clock = self._report(pending, clock)
                pending = []
            else:
                self._check_finite(pending[:-1])
            if evaluate:
                self.evaluation_loss = self.evaluate()
                record = {
                    'evaluation_loss': self.evaluation_loss,
                    'evaluation_perplexity': metrics_lib.perplexity(self.evaluation_loss),
                }
                self.recorder.write(self.number, record)
                clock = time.monotonic()
            if save:
                self._save(self.evaluation_loss if evaluate else None)
            self.checkpoints.check()
        if pending:
            self._report(pending, clock)
        if self._stop:
            self.recorder.say(
                f'Stopped: saving step {self.number}; the same command goes on from there.'
            )
        if self.checkpoints.last_saved != self.number:
            self._save(None)
        self.checkpoints.wait()

    def evaluate(self) -> float:
        """Mean negative log-likelihood of the validation rows' trained tokens, in nats."""
        plan = self.data.validation
        assert plan is not None, 'the caller looks whether there is one'
        batch = self.run.batch
        rows = batch.size // batch.accumulation
        placement = Placement(self.mesh, rows, 1, self.run.data.seq_len)
        totals = None
        for values in placement.stream(data.load(plan, placement.rows, 0, plan.steps(1.0))):
            sums = self.evaluate_fn(self.state.params, values)
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        assert totals is not None
        return float(totals['loss'] / totals['weight'])

    def _state(self, start: Start, shapes: Mapping[str, Any]) -> tuple[int, State]:
        """The last good checkpoint, or the beginning."""
        step = self.checkpoints.newest()
        optimiser_shapes = jax.eval_shape(self.optimiser.init, dict(shapes))
        if step is not None:
            meta = self.checkpoints.meta(step)
            if meta.get('plan') not in (None, self.plan.fingerprint):
                raise ValueError(
                    f'{self.workdir} was trained on other data or batches than this configuration '
                    'plans (data, template, seed, batch.size or data.seq_len changed): continuing '
                    'would repeat some rows and skip others. Give a new --workdir.'
                )
            if meta.get('steps', self.steps) != self.steps:
                logging.warning(
                    'The run was planned for %d steps and is now for %d: the learning rate follows '
                    'the new plan.',
                    meta['steps'],
                    self.steps,
                )
            if meta.get('optimiser', True):
                like = jax.tree.map(
                    lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
                    State(dict(shapes), optimiser_shapes),
                    self.shardings,
                )
                return step, self.checkpoints.restore(step, like)
        params = start.parameters(self.shardings.params)
        init = jax.jit(self.optimiser.init, out_shardings=self.shardings.optimiser)
        return 0, State(params, init(params))

    def _save(self, evaluation_loss: float | None) -> None:
        meta = {
            'plan': self.plan.fingerprint,
            'evaluation_loss': evaluation_loss,
            'steps': self.steps,
        }
        self.checkpoints.save(self.number, self.state, meta)

    def _report(self, pending, clock: float) -> float:
        """Waits for the pending steps and records their means; returns the new clock."""
        self._check_finite(pending)
        values = {k: np.array([float(v[k]) for _, v in pending]) for k in pending[0][1]}
        now = time.monotonic()
        rate = values['tokens'].sum() / (now - clock)
        record = {
            'loss': float(np.average(values['loss'], weights=values['trained_tokens'] + 1e-9)),
            'grad_norm': float(values['grad_norm'][-1]),
            'learning_rate': float(self.schedule(self.number - 1)),
            'tokens_per_second': rate,
            'tokens_per_second_per_device': rate / self.mesh.size,
            'memory_bytes': metrics_lib.memory_bytes(),
            'epoch': self.number / max(self.plan.steps(1.0), 1),
        }
        if peak := metrics_lib.peak_flops():
            sizes = {n: int(np.prod(s.shape)) for n, s in self.specs.items()}
            flops = metrics_lib.training_flops_per_token(
                self.architecture, sizes, self.run.data.seq_len
            )
            record['flop_utilisation'] = rate * flops / (peak * self.mesh.size)
        self.recorder.write(self.number, record)
        return now

    def _check_finite(self, pending) -> None:
        for number, values in pending:
            if not np.isfinite(values['loss']) or not np.isfinite(values['grad_norm']):
                raise NotFiniteError(
                    f'the loss of step {number} is not finite (loss {float(values["loss"])}, '
                    f'gradient norm {float(values["grad_norm"])}): training stopped there, and the '
                    'checkpoints before it are intact. Set --config.optim.learning_rate lower.'
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

    def _terminate(self, *_: Any) -> None:
        """The first signal ends training after this step; a second one at once."""
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def _must_stop(self) -> bool:
        """SIGTERM reached a process; all processes stop at the same step."""
        if jax.process_count() > 1:
            self._stop = multihost_utils.reached_preemption_sync_point(self.number)
        return self._stop

    def _introduce(self) -> None:
        say = self.recorder.say
        shape = ' × '.join(f'{k} {v}' for k, v in self.mesh.shape.items())
        say(
            f'{self.architecture.family}, {models.count_parameters(self.architecture):,} '
            f'parameters, on {self.mesh.size} × {jax.devices()[0].device_kind} ({shape})'
        )
        say(str(self.data.account))
        say(
            f'{self.steps} steps of {self.run.batch.size} × {self.run.data.seq_len} tokens'
            + (f', from step {self.number}' if self.number else '')
            + (f', up to step {self.last_step}' if self.last_step < self.steps else '')
        )


def _check_same_plan(fingerprint: str) -> None:
    """All processes must read the same rows, or their parts do not make a batch."""
    if jax.process_count() == 1:
        return
    ours = np.frombuffer(fingerprint.encode()[:16].ljust(16), np.int32)
    if (multihost_utils.process_allgather(ours) != ours).any():
        raise ValueError(
            '--config.data.path has other rows on some processes than on others: every host must '
            'see the same files. Put them where all hosts read them.'
        )
