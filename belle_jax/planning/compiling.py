"""Programs compiled by the real compilers for devices that are not there: a run's training step."""

import contextlib
import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.errors

from belle_jax.config import PRESETS, Architecture, Run
from belle_jax.planning.topology import topology
from belle_jax.runs.load import read_architecture
from belle_jax.training.setup import Setup, lay_out

STEPS = 1000  # of the schedule, which has no say in what a step takes
TOO_MUCH = re.compile(r'Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm')
TOO_MUCH_BESIDE = re.compile(r'required for HLO temporaries \(([\d.]+)([KMG])\) exceeds')
"""What a TPU's compiler says: of all, or where what goes in is not even counted."""
UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30}


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
        parameters: Trained and frozen ones.
        optimiser: Its moments, but for what lies in the host's memory.
        temporaries: Activations, gradients and what the compiler needs beside them.
        total: All of it, with the batch.
        host: In the host's memory instead, for each device.
    """

    parameters: int
    optimiser: int
    temporaries: int
    total: int
    host: int = 0


class CompiledStep(NamedTuple):
    """A compiled step.

    Attributes:
        run: As it was compiled: with attention and options chosen.
        setup: What prepared it.
        memory: What it needs.
        text: The compiled program; '' where it does not fit into the device.
        warnings: Of the compiler, about what it computes twice.
    """

    run: Run
    setup: Setup
    memory: Memory
    text: str
    warnings: list[str]


def compile_step(run: Run, name: str, options: Mapping[str, str] | None = None) -> CompiledStep:
    """Compiles the step that `belle-jax train` would run.

    Args:
        run: From `config.resolve`.
        name: Of the topology: v5e:4x8, h200:8.
        options: Of the compiler, over those that the step has anyway.
    Raises:
        ValueError: mesh, model and devices do not fit each other, or the compilers are not there.
    """
    architecture = architecture_of(run)
    devices, platform, given = described(name)
    attention = run.model.attention
    if attention == 'auto':  # as training chooses: the fused kernels have no dropout
        fused = 'splash' if platform == 'tpu' else 'cudnn'
        attention = 'xla' if run.model.attention_dropout else fused
    model = dataclasses.replace(run.model, attention=attention)
    run = dataclasses.replace(run, model=model)
    setup = Setup(run, lay_out(run, architecture, devices), STEPS)
    traced, state = setup.trace(), setup.shapes
    moments = bytes_of(state.optimiser)
    host = moments if run.optim.offload else 0
    held = bytes_of((state.trainable, state.frozen)), moments - host
    with jax.set_mesh(setup.mesh):
        made = compiled(traced, platform, {**given, **(options or {})}, sum(held))
    total = made.total
    if made.text and platform != 'tpu':  # without a GPU, JAX forgets in which memory an array lies
        total -= host
    temporaries = made.temporaries if made.text else total - sum(held)
    warnings = [line for line in made.log if 'rematerialization' in line.lower()]
    return CompiledStep(run, setup, Memory(*held, temporaries, total, host), made.text, warnings)


def described(name: str) -> tuple[Any, str, dict[str, str]]:
    """What `topology` gives.

    Raises:
        ValueError: the compilers are not there.
    """
    try:
        return topology(name)
    except (RuntimeError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f'the compiler for {name} is not there ({str(error).splitlines()[0][:120]}): '
            '.ci/compilers FOLDER installs it; put the folder on PYTHONPATH.'
        ) from error


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
        total: Bytes on one device, with what goes in and what comes out.
        temporaries: Of these, neither.
        text: The program; '' where it does not fit into the device.
        log: Lines that the compiler wrote.
    """

    total: int
    temporaries: int
    text: str
    log: list[str]


def compiled(traced: Any, platform: str, options: Mapping[str, str], held: int) -> Compiled:
    """Compiles what `jax.jit(...).trace` gave for described devices.

    Args:
        traced: That.
        platform: Of the devices.
        options: Of the compiler.
        held: Bytes on one device of what goes in.
    """
    log = list[str]()
    with _told(log):
        lowered = traced.lower(lowering_platforms=(platform,))
        try:
            made = lowered.compile(compiler_options=dict(options))
        except jax.errors.JaxRuntimeError as error:
            everything, beside = (p.search(str(error)) for p in (TOO_MUCH, TOO_MUCH_BESIDE))
            if not (found := everything or beside):
                raise
            size = int(float(found[1]) * UNITS[found[2]])
            return Compiled(size if everything else held + size, 0, '', log)
    found = made.memory_analysis()
    total = (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )
    return Compiled(total, found.temp_size_in_bytes, made.as_text(), log)


def architecture_of(run: Run) -> Architecture:
    """A run's model, by its shape alone: weights that are not here have that of their name.

    Raises:
        ValueError: it is not known what the weights are.
    """
    model = run.model
    if model.architecture or model.preset:
        return model.architecture or PRESETS[model.preset]
    if os.path.isdir(model.source):
        return read_architecture(model.source)
    name = re.sub(r'\W', '_', model.source.lower())
    if not (preset := max((p for p in PRESETS if p in name), key=len, default='')):
        raise ValueError(
            f'--config.model.source={model.source} is not here, and its name is that of no model '
            f'whose shape is known: set --config.model.source= --config.model.preset= to one of '
            f'{", ".join(PRESETS)}.'
        )
    return PRESETS[preset]


def bytes_of(shapes: Any) -> int:
    """Of arrays on one device."""
    leaves = jax.tree.leaves(shapes)
    return sum(math.prod(s.sharding.shard_shape(s.shape)) * s.dtype.itemsize for s in leaves)


@contextlib.contextmanager
def _told(log: list[str]) -> Iterator[None]:
    """Keeps aside what XLA writes to the process's standard error, of which little is of use."""
    with tempfile.TemporaryFile('w+', errors='replace') as told:
        before = os.dup(2)
        os.dup2(told.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            told.seek(0)
            log += told.read().splitlines()
