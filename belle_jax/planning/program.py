"""A compiled program's text: which instructions run, how often, and what its compiler says of them.

Compilers write a program's schedule: computations are lists of instructions in the order in which
they start. XLA's TPU compiler adds how many cycles it expects a fusion to take.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BEGINS = re.compile(r'(?:ENTRY )?%?([\w.\-]+) .*\{$')
NAMED = re.compile(r'(?:ROOT )?%([\w.\-]+) = (.*)')
ARRAY = re.compile(r'\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]')
CALLS = re.compile(r'\b(?:calls|to_apply|body|async_calls|called_computations)=\{?%([\w.\-]+)')
BODY = re.compile(r'condition=%([\w.\-]+), body=%([\w.\-]+)')
BRANCHES = re.compile(r'(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%[\w.\-]+))')
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
CONSTANT = re.compile(r'\b[su]32\[\]\S* constant\((\d+)\)')
WIDTHS = {'pred': 1, 's4': 0.5, 'u4': 0.5, 's2': 0.25, 'u2': 0.25}
COLLECTIVES = (
    *('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all'),
    *('collective-permute', 'ragged-all-to-all', 'collective-broadcast'),
)

FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all'}
"""What starts no kernel."""


class Instruction(NamedTuple):
    """One instruction: its name, the shapes that it gives, what it does, and all that follows."""

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def cycles(self) -> int:
        """That its compiler expects it to take; 0 where it does not say."""
        found = CYCLES.search(self.rest)
        return int(found[1]) if found else 0

    @property
    def size(self) -> float:
        """Bytes of what it gives."""
        return size(self.shape)

    @property
    def collective(self) -> str:
        """Its kind, such as all-gather, where it is one or starts one; '' else."""
        kind = self.opcode.removesuffix('-start')
        return kind if kind in COLLECTIVES else ''


class Scheduled(NamedTuple):
    """An instruction of the schedule, how often it runs, and whether that is in a loop."""

    instruction: Instruction
    times: int
    looped: bool = False


class CompiledProgram:
    """A compiled program.

    Attributes:
        computations: Lists of instructions by name.
        entry: The name of the one that begins.
    """

    def __init__(self, text: str) -> None:
        """Reads what `compiled.as_text()` gives."""
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, inside = '', None
        for line in text.splitlines():
            if inside is not None and (named := NAMED.match(line.strip())):
                inside.append(_instruction(*named.groups()))
            elif line.rstrip() == '}':  # a kernel's metadata has lines that begin so
                inside = None
            elif (begins := BEGINS.match(line)) and not line[0].isspace():
                inside = self.computations.setdefault(begins[1], [])
                self.entry = begins[1] if line.startswith('ENTRY') else self.entry

    @functools.cached_property
    def schedule(self) -> list[Scheduled]:
        """What runs, in order; a loop's body once, with how often it runs. Fusions are whole."""
        return list(self._walk(self.entry, 1, False))

    def _walk(self, name: str, times: int, looped: bool) -> Iterator[Scheduled]:
        for instruction in self.computations[name]:
            if instruction.opcode == 'while':
                condition, body = BODY.search(instruction.rest).groups()  # type: ignore[union-attr]
                yield from self._walk(body, times * self._trips(instruction, condition), True)
            elif instruction.opcode == 'conditional':
                branches = self._branches(instruction)
                yield from self._walk(max(branches, key=self._weight), times, looped)
            elif instruction.opcode == 'call':
                for called in CALLS.findall(instruction.rest)[:1]:
                    yield from self._walk(called, times, looped)
            else:
                yield Scheduled(instruction, times, looped)

    def _trips(self, loop: Instruction, condition: str) -> int:
        """Of a loop: what the compiler knows, or the largest number that its condition compares."""
        if known := TRIPS.search(loop.rest):
            return int(known[1])
        lines = (f'{i.shape} {i.opcode}({i.rest}' for i in self.computations[condition])
        numbers = [int(n) for line in lines for n in CONSTANT.findall(line)]
        return max(numbers, default=1)

    def _branches(self, instruction: Instruction) -> list[str]:
        found = BRANCHES.findall(instruction.rest)
        return re.findall(r'%([\w.\-]+)', ' '.join(' '.join(pair) for pair in found))

    def _weight(self, name: str) -> int:
        return sum(i.cycles for i in self.computations[name])

    def within(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions of what an instruction calls, such as those of a fusion."""
        for called in CALLS.findall(instruction.rest):
            for inner in self.computations.get(called, ()):
                yield inner
                yield from self.within(inner)


def _instruction(name: str, text: str) -> Instruction:
    """Takes what follows the equals sign apart; a tuple's shape has brackets and spaces inside."""
    depth, end = 0, 0
    while text[end] != ' ' or depth:
        depth += (text[end] in '([{') - (text[end] in ')]}')
        end += 1
    shape, (opcode, _, rest) = text[:end], text[end + 1 :].partition('(')
    return Instruction(name, shape, opcode.strip(), rest)


def arrays(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The arrays of a shape: 'bf16[2,3]{1,0}' gives ('bf16', (2, 3))."""
    for dtype, sizes in ARRAY.findall(shape):
        yield dtype, tuple(int(n) for n in sizes.split(',') if n)


def size(shape: str) -> float:
    """Bytes of a shape, all arrays together."""
    return sum(width(dtype) * math.prod(sizes) for dtype, sizes in arrays(shape))


def width(dtype: str) -> float:
    """Bytes of an entry."""
    if dtype in WIDTHS:
        return WIDTHS[dtype]
    bits = re.search(r'\d+', dtype)
    return int(bits[0]) / 8 if bits else 0


def largest(shape: str) -> tuple[str, tuple[int, ...]]:
    """The largest array of a shape."""
    return max(arrays(shape), key=lambda a: width(a[0]) * math.prod(a[1]))


def cycles(program: CompiledProgram) -> int:
    """Cycles of all fusions, as the compiler expects them; kernels and waits are not among them."""
    return sum(step.instruction.cycles * step.times for step in program.schedule)


def launches(program: CompiledProgram) -> int:
    """Kernels that one turn of its loops starts, each of them counted once."""
    return sum(step.looped and step.instruction.opcode not in FREE for step in program.schedule)


def loop_collectives(program: CompiledProgram) -> list[Instruction]:
    """The collectives that run in loops, those within fusions too."""
    return [
        inner
        for step in program.schedule
        for inner in (step.instruction, *program.within(step.instruction))
        if step.looped and inner.collective
    ]
