"""What is known of chips: the figures that their makers publish, and what follows from them.

Sources: Google Cloud's pages on TPU versions (v4, v5e, v5p, v6e: peak, memory, bandwidth, links);
NVIDIA's data sheets of A100, H100 and H200. The clock follows from peak and matrix units.
"""

import math
import re
from typing import NamedTuple


class Chip(NamedTuple):
    """One device, as JAX counts them.

    Attributes:
        title: For people.
        peak: FLOP/s in bfloat16.
        memory: Bytes.
        bandwidth: Of memory, bytes/s.
        clock: Hz, in which compilers count cycles; 0 where they count none.
        link: Bytes/s that one device sends over its fast links, all together.
        slow: Bytes/s that one device sends beyond them: to another slice, or another machine.
    """

    title: str
    peak: float
    memory: float
    bandwidth: float
    clock: float
    link: float
    slow: float


GB, TB, TFLOPS, GHZ = 1e9, 1e12, 1e12, 1e9
GIB = 2**30
CHIPS = {
    'v4': Chip('TPU v4', 275 * TFLOPS, 32 * GIB, 1.228 * TB, 1.05 * GHZ, 300 * GB, 6.25 * GB),
    'v5e': Chip('TPU v5e', 197 * TFLOPS, 16 * GIB, 0.819 * TB, 1.5 * GHZ, 200 * GB, 3.1 * GB),
    'v5p': Chip('TPU v5p', 459 * TFLOPS, 95 * GIB, 2.765 * TB, 1.75 * GHZ, 600 * GB, 6.25 * GB),
    'v6e': Chip('TPU v6e', 918 * TFLOPS, 32 * GIB, 1.64 * TB, 1.75 * GHZ, 448 * GB, 6.25 * GB),
    'h200': Chip('H200', 989 * TFLOPS, 141 * GB, 4.8 * TB, 0, 450 * GB, 50 * GB),
    'h100': Chip('H100', 989 * TFLOPS, 80 * GB, 3.35 * TB, 0, 450 * GB, 50 * GB),
}
CARDS = {'16 GB': 16 * GB, '24 GB': 24 * GB, '40 GB': 40 * GB, '80 GB': 80 * GB, '141 GB': 141 * GB}
KEPT = 0.97  # of a device's memory; the rest is the system's
SHAPE = re.compile(r'((?P<slices>[1-9]\d*)x)?(?P<chip>[a-z]\w+):(?P<sizes>\d+(x\d+)*)')


class Topology(NamedTuple):
    """Devices of one kind.

    Attributes:
        name: Of the chip.
        chip: What is known of it.
        shape: Of a slice, as it was written.
        slices: How many there are.
        devices: Of all slices.
    """

    name: str
    chip: Chip
    shape: str
    slices: int
    devices: int


def read(topology: str) -> Topology:
    """What a topology's name says.

    'v5e:4x8' is 32 chips, '2xv5e:4x8' two slices of them, 'h200:8' one machine, 'h200:8x4' four.

    Raises:
        ValueError: it is not written so, or the chip is not known.
    """
    found = SHAPE.fullmatch(topology)
    if not found or found['chip'] not in CHIPS or (found['slices'] and found['chip'][0] != 'v'):
        raise ValueError(
            f'--topology={topology} is not a chip with its number: write v5e:4x8, 2xv5e:4x8 for '
            f'two slices of a TPU, or h200:8x4 for four machines, with one of {", ".join(CHIPS)}.'
        )
    slices, chip, shape = int(found['slices'] or 1), found['chip'], found['sizes']
    devices = slices * math.prod(int(n) for n in shape.split('x'))
    return Topology(chip, CHIPS[chip], shape, slices, devices)
