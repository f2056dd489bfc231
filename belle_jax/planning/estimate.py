"""How long a compiled step would take, by what its compiler says and its chip's figures allow.

On a TPU each fusion has the compiler's own cycles. A kernel of ours has none: it is charged what
its products take at half of peak, or what its bytes take, whichever is longer. A collective takes
its bytes over the links; what runs between its start and its end hides that much of it. GPU
compilers give no cycles: there the floors alone are known, of FLOPs, bytes and links.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from belle_jax.planning.chips import Chip
from belle_jax.planning.program import (
    CompiledProgram,
    Instruction,
    Scheduled,
    arrays,
    largest,
    size,
    width,
)

KERNEL = 'tpu_custom_call'
# Of splash attention: products over queries and keys, of which a causal mask leaves half.
PRODUCTS = {'_fwd': 2, '_dkv': 4, '_dq': 3}
OPERANDS = re.compile(r'operand_layout_constraints=\{(.*?\})\}')
LISTED = re.compile(r'replica_groups=\{\{([\d,]+)\}')
IOTA = re.compile(r'replica_groups=\[\d+,(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?')
MESH = re.compile(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}')
CHANNEL = re.compile(r'channel_id=(\d+)')
SCATTERED = 'calls=%all-reduce-scatter'  # the TPU compiler's reduce-scatter
# Between TPU slices the compiler has hosts exchange what one device sends and receives.
EXCHANGE = re.compile(
    r'_host_transfer_rendezvous="([^"]+)".*_megascale_target="?\{\{?([\d,:]+)\}.*_transfer_type="(\w+)"'
)
START = 'AsyncCollectiveStart'  # the fusion with it begins a collective that later ones go on with


class Collective(NamedTuple):
    """One collective of the schedule.

    Attributes:
        kind: Such as all-gather.
        shape: That it gives, the largest array.
        times: How often it runs.
        sent: Bytes that a device sends each time.
        beyond: Of these, what goes to another slice or machine.
        seconds: That its links take each time.
        hidden: Of these, behind what is computed meanwhile.
    """

    kind: str
    shape: str
    times: int
    sent: float
    beyond: float
    seconds: float
    hidden: float


class Estimate(NamedTuple):
    """Seconds of one step.

    Attributes:
        fusions: By the compiler's cycles.
        kernels: Of custom calls.
        waits: Of collectives that nothing hides.
        links: Of all collectives, if nothing hid any.
        sent: Bytes that a device sends.
        beyond: Of these, to other slices or machines.
        slow: Seconds that those take.
        collectives: By kind and shape, the largest first.
    """

    fusions: float
    kernels: float
    waits: float
    links: float
    sent: float
    beyond: float
    slow: float
    collectives: list[Collective]

    @property
    def seconds(self) -> float:
        """Of the step."""
        return self.fusions + self.kernels + self.waits

    @property
    def hidden(self) -> float:
        """Share of the collectives' time that is hidden."""
        return 1 - self.waits / self.links if self.links else 1.0


def estimate(program: CompiledProgram, chip: Chip, slices: Sequence[int] = ()) -> Estimate:
    """Estimates a step.

    Args:
        program: Compiled for the chip.
        chip: Whose figures count.
        slices: In which each device of the mesh is; by default all are in one.
    """
    fusions = kernels = clock = busy = 0.0
    running: dict[str, tuple[Scheduled, float]] = {}
    received: dict[str, str] = {}
    chains: dict[str, _Chain] = {}
    found: list[Collective] = []
    reckon = functools.partial(_collective, chip, slices)
    for step in program.schedule:
        instruction = step.instruction
        took = instruction.cycles / chip.clock if chip.clock else 0.0
        if KERNEL in instruction.rest:
            took = _kernel(instruction, chip)
            kernels += took * step.times
        else:
            fusions += took * step.times
        if instruction.opcode == 'fusion':
            _fused(program, step, took, chains)
        elif meeting := EXCHANGE.search(instruction.rest):
            if instruction.opcode == 'send':
                at = max(clock, busy)  # one link takes what goes to other slices, one by one
                busy = at + reckon(instruction, step.times, 0.0).seconds * step.times
                running[meeting[1]] = step, at
            received[instruction.name] = meeting[1]
        elif instruction.opcode.endswith('-done') and instruction.opcode != 'send-done':
            started = re.search(r'%([\w.\-]+)', instruction.rest)
            name = received.get(started[1], started[1]) if started else ''
            if name in running:
                begun, at = running.pop(name)
                hidden = max(clock - at, 0.0) / begun.times
                found.append(reckon(begun.instruction, begun.times, hidden))
        elif instruction.collective and instruction.opcode.endswith('-start'):
            running[instruction.name] = step, clock
        elif instruction.collective:
            found.append(reckon(instruction, step.times, 0.0))
        clock += took * step.times
    for chain in chains.values():
        hidden = chain.took / chain.times
        found.append(reckon(chain.instruction, chain.times, hidden, chain.scattered))
    found.sort(key=lambda c: -c.sent * c.times)
    return Estimate(
        fusions,
        kernels,
        sum(max(c.seconds - c.hidden, 0) * c.times for c in found),
        sum(c.seconds * c.times for c in found),
        sum(c.sent * c.times for c in found),
        (beyond := sum(c.beyond * c.times for c in found)),
        beyond / chip.slow,
        found,
    )


@dataclasses.dataclass
class _Chain:
    """A collective that runs beside the products of several fusions."""

    instruction: Instruction
    times: int
    scattered: bool
    took: float = 0.0


def _fused(
    program: CompiledProgram, step: Scheduled, took: float, chains: dict[str, _Chain]
) -> None:
    """Notes the collectives inside a fusion."""
    inner = list(program.within(step.instruction))
    begins = any(START in instruction.rest for instruction in inner)
    scattered = SCATTERED in step.instruction.rest
    for instruction in inner:
        if instruction.collective:
            channel = CHANNEL.search(instruction.rest)
            # Reductions in parts are whole where they stand, and may share a channel.
            name = channel[1] if channel and not scattered else instruction.name
            chain = chains.setdefault(name, _Chain(instruction, step.times, scattered))
            chain.took += took * step.times
            if begins:
                chain.times = step.times


def _kernel(instruction: Instruction, chip: Chip) -> float:
    """Seconds of a kernel: of its products at half of peak, or of its bytes."""
    operands = OPERANDS.search(instruction.rest)
    moved = size(instruction.shape) + size(operands[1] if operands else '')
    flops = 0.0
    count = next((n for part, n in PRODUCTS.items() if part in instruction.name), 0)
    # Queries, then keys: [rows, heads, tokens, width], without rows where there is one alone.
    wide = [s for dtype, s in arrays(operands[1] if operands else '') if len(s) > 2 and s[-1] > 8]
    if count and len(wide) > 1:
        (*heads, queries, size_of_head), keys = wide[0], wide[1][-2]
        flops = 2 * count * math.prod(heads) * queries * keys * size_of_head / 2
    return max(flops / (chip.peak / 2), moved / chip.bandwidth)


def _collective(
    chip: Chip,
    slices: Sequence[int],
    instruction: Instruction,
    times: int,
    hidden: float,
    scattered: bool = False,
) -> Collective:
    """What a collective takes; `scattered`: an all-reduce of which each device keeps its part."""
    if exchange := EXCHANGE.search(instruction.rest):
        return _exchanged(chip, instruction, times, hidden, *exchange.groups()[1:])
    kind, members = instruction.collective, group(instruction)
    among, joined = len(members), len({slices[m] for m in members} if slices else (0,))
    dtype, sizes = largest(instruction.shape)
    # One that was started gives what went in beside what comes out; several are combined into one.
    started = instruction.opcode.endswith('-start')
    whole = width(dtype) * math.prod(sizes) if started else instruction.size
    share = (among - 1) / among
    sent = {
        'all-reduce': (1 if scattered else 2) * whole * share,
        'reduce-scatter': whole * (among - 1),
        'collective-permute': whole,
    }.get(kind, whole * share)
    kind = 'reduce-scatter' if scattered else kind
    # Each slice sends its parts to the others once, over the links of all its devices.
    beyond = sent / (among - 1) * (joined - 1) if among > 1 else 0.0
    shape = f'{dtype}[{",".join(map(str, sizes))}]'
    seconds = max(sent / chip.link, beyond / chip.slow)
    return Collective(kind, shape, times, sent, beyond, seconds, hidden)


def _exchanged(
    chip: Chip, instruction: Instruction, times: int, hidden: float, slices: str, kind: str
) -> Collective:
    """What goes from a device to those in its place of other slices, such as '1,2' or '0:3'."""
    ranges = [[int(n) for n in part.split(':')] for part in slices.split(',')]
    count = sum(r[-1] - r[0] + 1 for r in ranges)
    (dtype, sizes), kind = largest(instruction.shape), kind.lower().replace('_', '-')
    share = {'all-reduce': 2 / count, 'all-gather': 1}.get(kind, 1 / count) * (count - 1)
    sent = width(dtype) * math.prod(sizes) * share
    shape = f'{dtype}[{",".join(map(str, sizes))}]'
    return Collective(kind, shape, times, sent, sent, sent / chip.slow, hidden)


def group(instruction: Instruction) -> list[int]:
    """Places in the mesh of the devices that take part in a collective, in its first group."""
    if listed := LISTED.search(instruction.rest):
        return [int(n) for n in listed[1].split(',')]
    if iota := IOTA.search(instruction.rest):
        sizes = [int(n) for n in iota[2].split(',')]
        places = np.arange(math.prod(sizes)).reshape(sizes)
        if iota[3]:
            places = places.transpose([int(n) for n in iota[3].split(',')])
        return places.reshape(-1, int(iota[1]))[0].tolist()
    if mesh := MESH.search(instruction.rest):
        named = [(n, int(size)) for n, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])]
        taken = re.findall(r"'([^']+)'", mesh[2])
        places = np.arange(math.prod(size for _, size in named)).reshape([s for _, s in named])
        return places[tuple(slice(None) if n in taken else 0 for n, _ in named)].ravel().tolist()
    return [0, 1]
