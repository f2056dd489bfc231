"""What becomes of adapters: PEFT's files, a run that goes on, a model that has them merged in."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from belle_jax import config, families
from belle_jax.data import tokenizer
from belle_jax.files import new_directory, require_new
from belle_jax.formats import huggingface, peft
from belle_jax.runs import combined, conversion, run_directory
from belle_jax.runs.adapted import Adapted, Merged
from belle_jax.runs.checkpoints import Checkpoints
from belle_jax.runs.load import open_adapter, open_base, open_parameters, read_architecture
from belle_jax.weights.tensors import DTYPES, Planned, in_dtype


def to_peft(sources: Sequence[tuple[str, float]], base: str, target: Path, **how: Any) -> Path:
    """Writes adapters as one directory of PEFT's, with the tokenizer of the first.

    Args:
        sources: Places, as `open_adapter` takes them, and weights.
        base: What their base is called, and where it is; '' as the first says.
        target: A directory that does not exist yet, or is empty; it is returned.
        **how: As `combined.combine`.
    Raises:
        ValueError: a source is no adapter, or of another model; the target is not empty.
    """
    require_new(target)
    base = base or _base_of(Path(sources[0][0]))
    architecture = read_architecture(base)
    own = _one(sources, architecture, how)
    words = _tokenizer_of(Path(sources[0][0]))
    conversion.tell_of_base(base)

    def carry(partial: Path) -> None:
        if words:
            huggingface.copy(words, partial, tokenizer.FILES)

    return peft.write(own, architecture, target, base, carry)


def from_peft(source: Path, base: str, target: Path) -> Path:
    """Writes a run that has an adapter of PEFT's, to go on from, to sample or to export.

    Args:
        source: A directory of PEFT's.
        base: What it is an adapter of; '' as it says.
        target: A directory that does not exist yet, or is empty; it is returned.
    Raises:
        ValueError: as `peft.open`.
    """
    require_new(target)
    if not peft.is_adapter(source):
        raise ValueError(f'{source} is no adapter of PEFT: it has no {peft.CONFIG}.')
    base = base or _base_of(source)
    opened, numbers = open_base(base)
    own = peft.open(source, opened.architecture)
    Adapted(opened, own, source)  # refuses an adapter of another model
    adapter = own.adapter
    whole = (name for name in own.shapes if '.adapter.' not in name)
    also = ','.join(sorted(name.replace('blocks.0.', 'layers.*.') for name in whole))
    run = config.Run(
        model=config.Model(source=base, architecture=opened.architecture),
        adapter=config.Adapter(
            adapter.rank,
            float(adapter.alpha),
            targets=','.join(adapter.targets),
            rslora=adapter.rslora,
            dora=adapter.dora,
            also=also,
        ),
    )
    with new_directory(target, sum(a.nbytes for a in own.arrays.values())) as partial:
        conversion.keep_origin(huggingface.resolve(base), partial, name=base)
        checkpoints = Checkpoints(partial / run_directory.CHECKPOINTS)
        params = {name: jnp.asarray(array) for name, array in own.arrays.items()}
        checkpoints.save(0, params, {}, {'optimiser': False, 'source': numbers})
        checkpoints.close()
        words = partial / run_directory.TOKENIZER
        template = 'none'
        if words.is_dir() and tokenizer.load(words).chat_template:
            template = 'tokenizer'
        run = dataclasses.replace(run, data=config.Data(template=template))
        config.save(run, partial / run_directory.CONFIG)
    return target


def merge(
    sources: Sequence[tuple[str, float]], base: str, target: Path, dtype: str = '', **how: Any
) -> Path:
    """Writes a model with adapters added to its weights, each tensor in the dtype that it has.

    Args:
        sources: As in `to_peft`; one that is a run also says how it is talked to.
        base: As in `to_peft`; of other weights than float ones a ValueError.
        target: A directory that does not exist yet, or is empty; it is returned.
        dtype: Of all tensors; '' leaves each as it is.
        **how: As `combined.combine`.
    Raises:
        ValueError: as in `to_peft`.
    """
    first = Path(sources[0][0])
    alone = len(sources) == 1 and sources[0][1] == 1.0 and not base
    if alone and run_directory.is_run_directory(first):
        return conversion.to_huggingface(first, target, dtype, merge=True)
    base = base or _base_of(first)
    path = huggingface.resolve(base)
    if run_directory.is_run_directory(path):
        raise ValueError(
            f'--base={base} is a run directory: convert it with `belle-jax convert to_hf` first.'
        )
    published: Any = open_parameters(path)
    own = _one(sources, published.architecture, how)
    merged = Merged(Adapted(published, own, first))
    order = families.in_published_order(published.architecture)
    tensors: dict[str, Planned] = {}
    for entry, layer in order:
        planned = conversion.planned(merged, entry, layer)
        kept = DTYPES.get(dtype) or published.dtype_of(entry.ours)
        tensors[planned.name] = in_dtype(planned, kept)
    return huggingface.write(dataclasses.replace(published, tensors=tensors), target, dtype)


def _one(sources: Sequence[tuple[str, float]], architecture: Any, how: dict[str, Any]) -> Any:
    """Several adapters as one; one with a weight of 1 as it is."""
    opened = [open_adapter(Path(place), architecture) for place, _ in sources]
    weights = [weight for _, weight in sources]
    if weights == [1.0]:
        return opened[0]
    return combined.combine(opened, weights, architecture, **how)


def _base_of(place: Path) -> str:
    """What an adapter says of its base; a ValueError where it says nothing."""
    if run_directory.is_run_directory(place):
        base = run_directory.open_checkpoint(place).base
    else:
        if not peft.is_adapter(place):
            raise ValueError(f'{place} is no adapter: it has no {peft.CONFIG}, and is no run.')
        base = peft.base_of(place)
    if not base:
        raise ValueError(f'{place} does not say what it is an adapter of: give --base=DIR.')
    return base


def _tokenizer_of(place: Path) -> Path | None:
    """Where the tokenizer files beside an adapter are; None where there are none."""
    run = run_directory.is_run_directory(place)
    folder = run_directory.root(place) / run_directory.TOKENIZER if run else place
    return folder if any((folder / name).is_file() for name in tokenizer.FILES) else None
