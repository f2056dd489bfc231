"""What prepares a training step: made once, for training, planning, benchmarks and tests."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from belle_jax import models, sharding
from belle_jax.config import Architecture, Run
from belle_jax.runs.parameters import Parameters, Regrouped
from belle_jax.runs.rounded import PACKINGS
from belle_jax.training import compiler_options, objectives, optim
from belle_jax.training.partition import partition
from belle_jax.training.step import State, make_evaluation, make_step


class Layout(NamedTuple):
    """Where a model lives and what of it is trained."""

    mesh: jax.sharding.Mesh
    blueprint: models.Blueprint  # its layers grouped by what is trained
    trained: frozenset[str]  # names of the parameters that the optimiser moves
    source: Regrouped | None = None  # what is frozen beside an adapter, grouped as the blueprint


def lay_out(
    run: Run,
    architecture: Architecture,
    devices: Sequence[Any] | None = None,
    source: Parameters | None = None,
) -> Layout:
    """Decides and checks the layout of a run, before data are read or a device is touched.

    Args:
        run: Its mesh, batch, adapter and patterns of what is trained.
        architecture: What run.model resolves to.
        devices: All of jax.devices() by default; their descriptions will do for planning.
        source: What is frozen beside an adapter, where that is known.
    Raises:
        ValueError: the mesh fits neither devices nor model nor batch, or a pattern matches nothing.
    """
    mesh = sharding.make_mesh(run.mesh, devices)
    sharding.check_divides(architecture, mesh)
    sharding.check_batch(run.batch.size // run.batch.accumulation, mesh)
    packing = source.packing if source else PACKINGS.get(run.model.frozen)
    whole = models.Blueprint(architecture, (), packing, run.adapter.low_rank(architecture))
    parts = partition(whole, run.train.only, run.train.freeze, run.adapter.also)
    if run.train.rows_from and not any(name.endswith('.table') for name in parts[1]):
        raise ValueError(
            f'--config.train.rows_from={run.train.rows_from} is set and no table is trained: name '
            'one by --config.train.only or --config.adapter.also, such as embed.'
        )
    if run.train.rows_from >= architecture.vocab_size:
        raise ValueError(
            f'--config.train.rows_from={run.train.rows_from} leaves nothing of a table to train: '
            f'it has {architecture.vocab_size} rows. Give the first new row, which the report of '
            'extend_vocab names, or the model that was extended.'
        )
    grouped = Regrouped(source, parts[0].groups) if source else None
    return Layout(mesh, *parts, grouped)


class Placement:
    """Which rows of a global batch this process reads, and how they become global arrays.

    A step's rows 0 … size-1 are split into micro-batches: row r is in micro-batch r // (size / A).

    Attributes:
        rows: This process's rows of each step.
        read: How many rows have come here so far.
    """

    def __init__(self, mesh: jax.sharding.Mesh, size: int, accumulation: int, seq_len: int):
        """Finds this process's rows.

        Args:
            mesh: The run's mesh.
            size: Rows of a step in all.
            accumulation: A, micro-batches of a step.
            seq_len: T in tokens.
        """
        self.sharding = batch_sharding(mesh)
        self.shape = (accumulation, size // accumulation, seq_len)
        slices: Any = self.sharding.addressable_devices_indices_map(self.shape).values()
        local = sorted({r for s in slices for r in range(*s[1].indices(self.shape[1]))})
        self.rows = [a * self.shape[1] + r for a in range(accumulation) for r in local]
        self.read = 0

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Global arrays [A, B, T] from this process's rows [len(rows), T]."""
        self.read += len(batch['tokens'])
        own = {n: array.reshape(self.shape[0], -1, self.shape[2]) for n, array in batch.items()}
        return jax.make_array_from_process_local_data(self.sharding, own, self.shape)

    def stream(self, batches: Iterator[Mapping[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
        """`put` over an iterator, one batch ahead of its use."""
        placed: Iterator[Any] = itertools.chain(map(self.put, batches), [None])
        for batch, _ in itertools.pairwise(placed):  # which takes the next one first
            yield batch


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Of batch arrays [A, B, T]: each device holds its rows of every micro-batch."""
    return sharding.named(mesh, (None, 'batch', 'length'))


class Setup:
    """A run's optimiser and objective on its layout, and the functions that train and evaluate.

    Attributes:
        mesh: The devices.
        blueprint: Of the model.
        specs: Declarations of all parameters.
        objective: What is minimised.
        schedule: The learning rate by step.
        shapes: A State of jax.ShapeDtypeStruct, each with its sharding.
    """

    def __init__(self, run: Run, layout: Layout, steps: int):
        """Decides everything, compiles nothing; `steps` are those of the run, for the schedule."""
        self._run, self.objective = run, objectives.named(run.train.objective)
        self.mesh, self.blueprint, trained, self._source = layout
        self.specs = models.specs(self.blueprint)
        self._trained = 'bfloat16' if run.optim.offload else 'float32'
        specs = {name: spec for name, spec in self.specs.items() if name in trained}
        self.schedule = jax.jit(optim.schedule(run.optim, steps))
        self.optimiser = optim.make(run.optim, steps, specs, run.adapter.ratio, run.train.rows_from)
        self.shapes = self._shapes(specs)
        values: dict[str, Any] = dataclasses.asdict(run.model)
        values['adapter_dropout'] = run.adapter.dropout
        fields = dataclasses.fields(models.Execution)
        how = models.Execution(**{field.name: values[field.name] for field in fields})
        self._step, self._evaluate = self._compiled(how)

    def state(self, params: Mapping[str, jax.Array]) -> State:
        """The state of step 0.

        Args:
            params: All parameters by name, placed as `shardings` says.
        """
        trainable = {name: params[name] for name in self.shapes.trainable}
        frozen = {name: params[name] for name in self.shapes.frozen}
        where = jax.tree.map(lambda s: s.sharding, self.shapes.optimiser)
        moments = jax.jit(self.optimiser.init, out_shardings=where)(trainable)
        trainable = {name: value.astype(self._trained) for name, value in trainable.items()}
        return State(trainable, frozen, moments)

    def step(
        self, state: State, batch: Mapping[str, jax.Array], number: int
    ) -> tuple[State, dict[str, jax.Array]]:
        """One optimiser step, under `jax.set_mesh(self.mesh)`; the state that goes in is given up.

        Args:
            state: Trainable parameters and optimiser state are written in place.
            batch: Arrays [A, B, T], as `Placement.put` gives them.
            number: Of the step, from 0.
        Returns:
            The new state, and metrics as `make_step` says.
        """
        (trainable, optimiser), metrics = self._step(
            state.trainable, state.frozen, state.optimiser, batch, np.int32(number)
        )
        return State(trainable, state.frozen, optimiser), metrics

    def evaluate(self, state: State, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Sums over one batch [1, B, T], for `step.reduced`."""
        return self._evaluate(state.trainable, state.frozen, batch)

    def trace(self) -> Any:
        """The step traced over shapes alone, to be lowered and compiled for whatever device."""
        micro_batches = self._run.batch.accumulation
        shape = (micro_batches, self._run.batch.size // micro_batches, self._run.data.seq_len)
        where = batch_sharding(self.mesh)
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
            for name, dtype in self.objective.fields.items()
        }
        with jax.set_mesh(self.mesh):
            return self._step.trace(*self.shapes, batch, jax.ShapeDtypeStruct((), np.int32))

    def placement(self, micro_batches: int = 0) -> Placement:
        """Which rows this process reads of a step's batch, or of that many micro-batches."""
        batch = self._run.batch
        count = micro_batches or batch.accumulation
        rows = batch.size // batch.accumulation * count
        return Placement(self.mesh, rows, count, self._run.data.seq_len)

    @property
    def shardings(self) -> dict[str, Any]:
        """Where each parameter lives, by name."""
        shapes = self.shapes.trainable | self.shapes.frozen
        return {name: shape.sharding for name, shape in shapes.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Entries of each trained parameter."""
        return {name: math.prod(self.specs[name].shape) for name in self.shapes.trainable}

    @property
    def compilations(self) -> int:
        """How often the step was compiled: once, or something is amiss."""
        return self._step._cache_size()

    def _shapes(self, trained: Mapping[str, models.ParamSpec]) -> State:
        where = sharding.of_parameters(self.mesh, self.specs)
        params = {
            name: jax.ShapeDtypeStruct(
                spec.shape,
                self._trained if name in trained else self._held(name),
                sharding=where[name],
            )
            for name, spec in self.specs.items()
        }
        trainable = {name: params[name] for name in trained}
        frozen = {name: params[name] for name in params if name not in trained}
        replicated = sharding.named(self.mesh, ())
        offload = self._run.optim.offload
        moments = optim.state_shapes(self.optimiser, trainable, replicated, offload)
        return State(trainable, frozen, moments)

    def _held(self, name: str) -> Any:
        """The dtype of a frozen parameter."""
        how, spec = self._run.model.frozen, self.specs[name]
        if spec.dtype != 'float32' or how in ('float32', 'bfloat16'):
            return spec.dtype if spec.dtype != 'float32' else how
        if self._source:
            return self._source.dtype_of(name)
        return 'bfloat16' if how in PACKINGS else 'float32'

    def _compiled(self, execution: models.Execution) -> tuple[Any, Any]:
        """`jax.jit` with every layout given, so that the step compiles once, and buffers reused."""
        replicated = sharding.named(self.mesh, ())
        trainable, frozen, moments = jax.tree.map(lambda s: s.sharding, self.shapes)
        step = make_step(self.blueprint, execution, self.objective, self.optimiser, self._run.seed)
        compiled = jax.jit(
            step,
            in_shardings=(trainable, frozen, moments, batch_sharding(self.mesh), replicated),
            out_shardings=((trainable, moments), replicated),
            donate_argnums=(0, 2),
            compiler_options=compiler_options.options(self.mesh.devices.flat[0]) or None,
        )
        evaluation = make_evaluation(self.blueprint, execution, self.objective)
        return compiled, jax.jit(evaluation, out_shardings=replicated)
