"""What decoding takes on devices that are not there: the loop that makes tokens, compiled."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from belle_jax import config, models, sharding
from belle_jax.decoding import loop
from belle_jax.decoding.batch import AnswerBatch
from belle_jax.decoding.engine import Engine, PendingAnswer
from belle_jax.decoding.sampling import Sampling
from belle_jax.planning import chips
from belle_jax.planning.chips import Chip
from belle_jax.planning.compiling import Compiled, architecture_of, bytes_of, compiled, described
from belle_jax.planning.estimate import estimate
from belle_jax.planning.program import CompiledProgram, launches

AXES = {1: ('batch',), 2: ('batch', 'vocab'), 4: ('batch', 'heads', 'length', 'head_dim')}
"""How the arrays of the loop's state lie, by the number of their dimensions."""


@dataclasses.dataclass(frozen=True)
class AnswerPlan:
    """The compiled loop, and what follows from it.

    Attributes:
        topology: As it was asked for.
        chip: Each of its devices.
        devices: Their number, over which the weights are split.
        rows: Answered together.
        slots: Of a row's cache: tokens of prompt and answer.
        weights: Bytes on one device.
        cache: Bytes on one device.
        read: Bytes that one device reads for each token: cache and weights, but for the table that
            tokens are looked up in.
        program: The compiled loop.
    """

    topology: str
    chip: Chip
    devices: int
    rows: int
    slots: int
    weights: int
    cache: int
    read: int
    program: Compiled

    @property
    def fits(self) -> bool:
        """Whether a device's memory is enough."""
        return bool(self.program.text) and self.program.total <= chips.KEPT * self.chip.memory

    @property
    def floor(self) -> float:
        """Seconds of a token that memory's bandwidth allows."""
        return self.read / self.chip.bandwidth

    @functools.cached_property
    def seconds(self) -> float | None:
        """Of a token in every row by the compiler's estimate; None where it gives no cycles.

        Weights that are fetched ahead have no cycles, so it may fall short of the floor.
        """
        if not (self.program.text and self.chip.clock):
            return None
        # How often the loop turns is not known when it is compiled, so it counts once.
        found = estimate(CompiledProgram(self.program.text), self.chip)
        return max(found.seconds, self.floor)

    @functools.cached_property
    def launches(self) -> int:
        """Kernels of a token."""
        return launches(CompiledProgram(self.program.text)) if self.program.text else 0


def sizes(text: str) -> tuple[int, int]:
    """Rows and slots of '8x2048'.

    Raises:
        ValueError: it is not written so.
    """
    if not (found := re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)):
        raise ValueError(f'--sample={text} is not answers and tokens of each: write 8x2048.')
    return int(found[1]), int(found[2])


def plan(
    run: config.Run, topology: str, rows: int, slots: int, options: Mapping[str, str] | None = None
) -> AnswerPlan:
    """Compiles the loop in which `belle-jax sample` makes tokens, on all devices of a topology.

    Args:
        run: Says which model; weights and activations have its `model.dtype`.
        topology: As in `compile_step`.
        rows: Answered together.
        slots: Of the cache of each.
        options: Of the compiler.
    Raises:
        ValueError: model and devices do not fit each other, or the compilers are not there.
    """
    architecture, chip = architecture_of(run), chips.read(topology).chip
    devices, platform, given = described(topology)
    mesh = sharding.make_mesh(config.Mesh(1, 1, len(devices)), devices)
    sharding.check_divides(architecture, mesh)
    alone = jax.sharding.SingleDeviceSharding(devices[0])

    def placed(shape: Any, axes: sharding.Axes, dtype: Any) -> jax.ShapeDtypeStruct:
        where = sharding.named(mesh, axes) if len(devices) > 1 else alone
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    blueprint = models.Blueprint(architecture).for_decoding()
    params: Any = {
        name: placed(spec.shape, spec.axes, run.model.dtype)
        for name, spec in models.specs(blueprint).items()
    }
    engine = Engine(models.build(blueprint, params, dtype=run.model.dtype))
    answer = PendingAnswer([0] * (slots // 2), Sampling(), slots // 2, engine.eos_ids, None)
    batch = AnswerBatch(engine, [answer] * rows, range(rows))
    with engine.on_mesh():
        program, held, *arrays, settings, total = batch.prompts
        read = functools.partial(loop.prefill, program, total=total)
        begun = jax.eval_shape(read, held, *arrays, settings)
        begun = jax.tree.map(lambda s: placed(s.shape, AXES[s.ndim], s.dtype), begun)
        stopped, steps = np.zeros(rows, bool), np.int32(loop.CHUNK)
        traced = loop.advance.trace(program, held, begun, settings, stopped, steps)
        weights, cache = bytes_of(params), bytes_of(begun.cache)
        made = compiled(traced, platform, {**given, **(options or {})}, weights + cache)
    looked_up = 0 if architecture.tied else bytes_of(params['embed.table'])
    read = weights - looked_up + cache
    return AnswerPlan(topology, chip, len(devices), rows, total, weights, cache, read, made)


def text(p: AnswerPlan) -> str:
    """What a plan says, in lines for people."""
    gigabytes = {'weights': p.weights, 'cache': p.cache, 'temporaries': p.program.temporaries}
    parts = ', '.join(f'{name} {size / chips.GB:.1f}' for name, size in gigabytes.items())
    lines = [
        f'{p.devices} × {p.chip.title}, {p.rows} answers at a time, {p.slots:,} tokens each',
        f'memory of a device   {p.program.total / chips.GB:.1f} of {p.chip.memory / chips.GB:.1f} '
        f'GB ({"fits" if p.fits else "does not fit"}): {parts}',
        f'a token              at least {p.floor * 1e3:.2f} ms, to read weights and cache',
    ]
    if p.seconds:
        lines[-1] = (
            f'a token              {p.seconds * 1e3:.2f} ms by the compiler, '
            f'{p.seconds / p.floor:.2f} times what reading weights and cache takes: '
            f'{p.rows / p.seconds:,.0f} tokens/s'
        )
    elif p.program.text:
        lines.append(f'kernels of a token   {p.launches:,}')
    return '\n'.join(lines)


def facts(p: AnswerPlan) -> dict[str, Any]:
    """A plan as JSON values."""
    return {
        'topology': p.topology,
        'chip': p.chip.title,
        'devices': p.devices,
        'rows': p.rows,
        'slots': p.slots,
        'fits': p.fits,
        'bytes_per_device': p.program.total,
        'bytes_by_kind': {
            'weights': p.weights,
            'cache': p.cache,
            'temporaries': p.program.temporaries,
        },
        'seconds_to_read': p.floor,
        'seconds': p.seconds,
        'launches': p.launches,
    }
