"""What a step takes and how fast it may be; and the fastest of the sensible ways to lay it out."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from belle_jax import sharding
from belle_jax.config import Run
from belle_jax.planning import chips
from belle_jax.planning.chips import Chip
from belle_jax.planning.compiling import CompiledStep, architecture_of, compile_step
from belle_jax.planning.estimate import Estimate, estimate
from belle_jax.planning.program import CompiledProgram
from belle_jax.progress import usd
from belle_jax.training.metrics import training_flops_per_token

REMATS = ('none', 'dots', 'block')
SHOWN = 6  # collectives


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """A compiled step, and what follows from it.

    Attributes:
        topology: As it was asked for.
        chip: Each of its devices.
        devices: Their number.
        step: The compiled step.
        estimate: Of its time; None where it does not fit.
        flops: That training must do in a step, on all devices, without what is done twice.
    """

    topology: str
    chip: Chip
    devices: int
    step: CompiledStep
    estimate: Estimate | None
    flops: float

    @property
    def fits(self) -> bool:
        """Whether a device's memory is enough."""
        return bool(self.step.text) and self.step.memory.total <= chips.KEPT * self.chip.memory

    @property
    def floor(self) -> float:
        """Seconds of a step that the devices' peak and memory's bandwidth allow."""
        return self.flops / self.devices / self.chip.peak

    @property
    def seconds(self) -> float | None:
        """Of a step by the estimate; None where the compiler gives no cycles."""
        return self.estimate.seconds if self.estimate and self.chip.clock else None

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.step.run.batch.size * self.step.run.data.seq_len

    @property
    def share(self) -> float | None:
        """Of peak that training reaches by the estimate."""
        return self.floor / self.seconds if self.seconds else None

    @property
    def binds(self) -> str:
        """What a step waits for most: memory does not count, which the fusions' cycles have in."""
        if not self.estimate:
            return 'memory'
        parts = {'fusions': self.estimate.fusions, 'kernels': self.estimate.kernels}
        parts['links'] = self.estimate.waits
        if not self.chip.clock:
            parts = {'products': self.floor, 'links': self.estimate.links}
        return max(parts, key=lambda name: parts[name])


def plan(run: Run, topology: str, options: Mapping[str, str] | None = None) -> StepPlan:
    """Compiles a run's step for a topology and estimates it; arguments as in `compile_step`."""
    where = chips.read(topology)
    step = compile_step(run, topology, options)
    slices = sharding.slices_of([*step.setup.mesh.devices.flat])
    found = estimate(CompiledProgram(step.text), where.chip, slices) if step.text else None
    per_token = training_flops_per_token(architecture_of(run), step.setup.sizes, run.data.seq_len)
    tokens = run.batch.size * run.data.seq_len
    return StepPlan(topology, where.chip, where.devices, step, found, per_token * tokens)


def candidates(run: Run, topology: str) -> Iterator[Run]:
    """The sensible ways to lay a run out, the likeliest first.

    Rows of a micro-batch are one, two or four a device, the micro-batches as many as the run's
    step then has; a step of fewer rows than devices gets a row for each. Slices hold copies, unless
    the run has them otherwise.
    """
    where, mesh = chips.read(topology), run.mesh
    if mesh.dcn_data * mesh.dcn_fsdp == 1:
        mesh = dataclasses.replace(mesh, dcn_data=where.slices)
    count = where.devices // (mesh.dcn_data * mesh.dcn_fsdp)
    architecture = architecture_of(run)
    for rows, tensor, remat in itertools.product((1, 2, 4), (1, 2, 4), ('dots', 'block', 'none')):
        if (
            count % tensor
            or architecture.kv_heads % tensor
            or architecture.embed % (count // tensor * mesh.dcn_fsdp)
        ):
            continue
        micro = rows * where.devices // tensor
        accumulation = max(1, run.batch.size // micro)
        yield dataclasses.replace(
            run,
            model=dataclasses.replace(run.model, remat=remat),
            batch=dataclasses.replace(
                run.batch, size=micro * accumulation, accumulation=accumulation
            ),
            mesh=dataclasses.replace(mesh, data=1, fsdp=count // tensor, tensor=tensor),
        )


def table(plans: list[StepPlan]) -> str:
    """The plans' layouts side by side, one line each."""
    lines = ['mesh                 rows  remat  memory      a step    of peak  hidden  binds']
    for p in plans:
        run, gigabytes = p.step.run, p.step.memory.total / chips.GB
        shape = p.step.setup.mesh.shape
        mesh = ' × '.join(f'{name} {size}' for name, size in shape.items() if size > 1) or 'one'
        seconds = f'{p.seconds:8.3f} s' if p.seconds else '       – '
        share = f'{p.share:7.0%}' if p.share else '      –'
        hidden = f'{p.estimate.hidden:6.0%}' if p.estimate else '     –'
        fits = '' if p.fits else '  does not fit'
        lines.append(
            f'{mesh:<20} {run.batch.size // run.batch.accumulation:>4}  {run.model.remat:<5}  '
            f'{gigabytes:6.1f} GB {seconds}  {share}  {hidden}  {p.binds}{fits}'
        )
    return '\n'.join(lines)


def text(p: StepPlan, tokens: float | None, price: float | None) -> str:
    """What a plan says, in lines for people.

    Args:
        p: The plan.
        tokens: Of the whole run, where they are known.
        price: USD of a device for an hour.
    """
    memory, limit = p.step.memory, p.chip.memory
    gigabytes = [f'{name} {size / chips.GB:.1f}' for name, size in _kinds(p).items()]
    cards = [name for name, size in chips.CARDS.items() if memory.total <= chips.KEPT * size]
    lines = [
        f'{p.devices} × {p.chip.title}, {p.step.run.batch.size} × {p.step.run.data.seq_len} tokens '
        f'a step in {p.step.run.batch.accumulation} micro-batches, remat {p.step.run.model.remat}',
        f'memory of a device   {memory.total / chips.GB:.1f} of {limit / chips.GB:.1f} GB '
        f'({"fits" if p.fits else "does not fit"}): {", ".join(gigabytes)}',
        f'cards that hold it   {", ".join(cards) or "none"}',
        f'FLOPs of a step      {p.flops:.3g}, {p.floor:.3f} s at peak',
    ]
    if p.estimate:
        e = p.estimate
        lines.append(
            f'links                {e.sent / chips.GB:.1f} GB sent by a device, {e.links:.3f} s at '
            'least' + (f', {e.hidden:.0%} hidden behind products' if p.chip.clock else '')
        )
        if e.beyond:
            lines.append(
                f'{"":21}{e.beyond / chips.GB:.2f} GB of it leaves the slice or machine, '
                f'{e.slow:.3f} s at {p.chip.slow / chips.GB:.1f} GB/s'
            )
        for c in _merged(e)[:SHOWN]:
            sent = c.sent * c.times / chips.GB
            where = ' to other slices' if c.beyond else ''
            lines.append(f'{"":21}{c.kind} {c.shape} × {c.times:,}: {sent:.2f} GB{where}')
    if p.seconds and p.estimate:
        e = p.estimate
        lines.append(
            f'a step               {p.seconds:.3f} s by the compiler (fusions {e.fusions:.3f}, '
            f'kernels {e.kernels:.3f}, waits {e.waits:.3f}): {p.share:.0%} of peak, '
            f'{p.tokens / p.seconds:,.0f} tokens/s; {p.binds} take most'
        )
    elif p.estimate:
        lines.append(
            'a step               not told by GPU compilers: at least '
            f'{max(p.floor, p.estimate.links):.3f} s, by its {p.binds}'
        )
    if tokens:
        seconds = (p.seconds or p.floor) * tokens / p.tokens
        least = '' if p.seconds else 'at least '
        paid = f', {usd(seconds / 3600 * p.devices * price)}' if price else ''
        lines.append(
            f'the whole run        {least}{seconds / 3600:,.1f} h for {tokens:,.0f} tokens{paid}'
        )
    return '\n'.join(lines)


def facts(p: StepPlan) -> dict[str, Any]:
    """A plan as JSON values."""
    run, e = p.step.run, p.estimate
    found: dict[str, Any] = {
        'topology': p.topology,
        'chip': p.chip.title,
        'devices': p.devices,
        'mesh': dict(p.step.setup.mesh.shape),
        'rows': run.batch.size,
        'micro_batches': run.batch.accumulation,
        'seq_len': run.data.seq_len,
        'remat': run.model.remat,
        'attention': run.model.attention,
        'fits': p.fits,
        'bytes_per_device': p.step.memory.total,
        'bytes_by_kind': _kinds(p),
        'flops': p.flops,
        'seconds_at_peak': p.floor,
        'warnings': p.step.warnings,
    }
    if e:
        found |= {
            'bytes_sent_per_device': e.sent,
            'bytes_sent_beyond_slice': e.beyond,
            'link_seconds': e.links,
            'binds': p.binds,
            'collectives': [[c.kind, c.shape, c.times, c.sent, c.beyond] for c in _merged(e)],
        }
    if p.seconds and e:
        found |= {
            'seconds': p.seconds,
            'seconds_by_part': {'fusions': e.fusions, 'kernels': e.kernels, 'waits': e.waits},
            'hidden': e.hidden,
            'share_of_peak': p.share,
        }
    return found


def _kinds(p: StepPlan) -> dict[str, int]:
    memory = p.step.memory
    return {
        'parameters': memory.parameters,
        'optimiser': memory.optimiser,
        'activations and gradients': memory.temporaries,
        **({"in the host's memory": memory.host} if memory.host else {}),
    }


def _merged(e: Estimate) -> list[Any]:
    """Collectives of one kind, size and reach as one, the largest first."""
    merged: dict[Any, Any] = {}
    for c in e.collectives:
        before = merged.get(key := (c.kind, c.shape, c.sent, c.beyond))
        merged[key] = c._replace(times=c.times + (before.times if before else 0))
    return sorted(merged.values(), key=lambda c: -c.sent * c.times)
