"""Low-rank adapters: which products of a model get one, and how its arrays are called.

Beside a product y = W x an adapter adds `scale` · B A x, where A and B have a small inner axis, the
rank. Ours are inputs first, as kernels are: a [inputs…, rank] and b [rank, outputs…]. Files of PEFT
have lora_A [rank, inputs] and lora_B [outputs, rank].

Source: Hu et al., 2021 (LoRA); Kalajdzievski, 2023 (rsLoRA); Liu et al., 2024 (DoRA).
"""

import dataclasses
import difflib
import fnmatch
import math
from collections.abc import Iterable, Iterator

from belle_jax.families.architecture import Architecture, tensor_maps
from belle_jax.families.packing import is_matrix
from belle_jax.families.published import TensorMap, vector

PUBLISHED = 'base_model.model.'
"""What PEFT puts before the name of every module."""


@dataclasses.dataclass(frozen=True)
class LowRank:
    """What decides an adapter's parameters and arithmetic.

    Attributes:
        rank: Of each product; at least 1.
        alpha: How strongly the adapter speaks; see `scale`.
        targets: The products that have one, such as 'attention.query', as `products` calls them.
        rslora: Whether alpha is divided by the root of the rank instead of the rank.
        dora: Whether each output's column of W + scale · B A is brought to a magnitude of its own,
            which is trained too.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    rslora: bool = False
    dora: bool = False

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f'an adapter of rank {self.rank}: a rank is at least 1.')
        if not self.targets:
            raise ValueError('an adapter without a target: name at least one product.')

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def products(architecture: Architecture) -> dict[str, TensorMap]:
    """Every product of a layer by its name, such as 'mlp.up'."""
    entries = filter(is_matrix, tensor_maps(architecture))
    return {product_of(entry): entry for entry in entries}


def product_of(entry: TensorMap) -> str:
    """'blocks.0.mlp.up.kernel' -> 'mlp.up'."""
    return entry.ours.split('.', 2)[2].removesuffix('.kernel')


def targets(architecture: Architecture, patterns: str) -> tuple[str, ...]:
    """The products of a model that patterns name.

    Args:
        architecture: The model.
        patterns: With commas between them: ours ('attention.query', 'mlp.*', 'query') or published
            names ('q_proj'); '' is all products.
    Raises:
        ValueError: a pattern matches nothing.
    """
    names = {
        name: (name, name.rpartition('.')[2], entry.theirs.split('.')[-2])
        for name, entry in products(architecture).items()
    }
    wanted = [p for p in (p.strip() for p in patterns.split(',')) if p]
    for pattern in wanted:
        if not any(fnmatch.filter(known, pattern) for known in names.values()):
            every = [name for known in names.values() for name in (known[0], known[2])]
            close = difflib.get_close_matches(pattern, every, 1, 0.3)
            raise ValueError(
                f'{pattern!r} matches no product of a {architecture.family} model: they are '
                f'{", ".join(names)}, or {", ".join(known[2] for known in names.values())} as '
                f'published files call them{f"; nearest is {close[0]}" if close else ""}.'
            )
    return tuple(
        name
        for name, known in names.items()
        if not wanted or any(fnmatch.filter(known, pattern) for pattern in wanted)
    )


def adapter_maps(architecture: Architecture, adapter: LowRank) -> Iterator[TensorMap]:
    """The arrays of an adapter, and the tensors of PEFT's files that hold them."""
    known = products(architecture)
    for name in adapter.targets:
        entry = known[name]
        outputs, inputs = entry.fold[: -entry.inputs], entry.fold[-entry.inputs :]
        ours = entry.ours.removesuffix('kernel') + 'adapter.'
        theirs = PUBLISHED + entry.theirs.removesuffix('weight')
        count, rank, layers = len(inputs), adapter.rank, entry.layers
        yield TensorMap(
            f'{ours}a', f'{theirs}lora_A.weight', (rank, *inputs), (*range(1, count + 1), 0), count,
            layers,
        )  # fmt: skip
        count = len(outputs)
        yield TensorMap(
            f'{ours}b', f'{theirs}lora_B.weight', (*outputs, rank), (count, *range(count)), 1,
            layers,
        )  # fmt: skip
        if adapter.dora:
            yield vector(f'{ours}magnitude', f'{theirs}lora_magnitude_vector', outputs, layers)


def count_parameters(architecture: Architecture, adapter: LowRank) -> int:
    """Numbers that an adapter adds to a model."""
    entries: Iterable[TensorMap] = adapter_maps(architecture, adapter)
    return sum(math.prod(entry.fold) * max(entry.layers, 1) for entry in entries)
