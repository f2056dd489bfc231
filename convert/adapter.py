"""Adapters: from a run to PEFT's files, from PEFT's files to a run, or into the weights.

    belle-jax convert adapter to_peft --source=runs/lora --target=adapters/mine
    belle-jax convert adapter from_peft --source=adapters/theirs --base=llama-7b-hf --target=runs/on
    belle-jax convert adapter merge --source=adapters/mine --base=llama-7b-hf --target=models/mine

A source is a run that trained an adapter, one of its checkpoints, or a directory of PEFT's. Several
are combined, each with a weight: --source=a=0.7,b=0.3, side by side (cat: exactly the sum, and as
high a rank), or mixed as peft does at the same rank (linear, ties, dare_linear, dare_ties). Without
--base it is the model that the adapter names. `sample --model=BASE --adapter=DIR` needs none of
this.
"""

import math
from pathlib import Path
from typing import Any

from absl import flags

from belle_jax import cli
from belle_jax.flag_readers import require_read, table
from belle_jax.runs import adapter_files, combined
from belle_jax.weights.tensors import DTYPES

SOURCE = flags.DEFINE_string('source', None, "Run, checkpoint or PEFT's directory; or A=0.7,B=0.3.")
BASE = flags.DEFINE_string('base', '', 'The model that it is an adapter of; as it says by default.')
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
COMBINE = flags.DEFINE_enum('combine', 'cat', combined.WAYS, 'How several become one.')
DENSITY = flags.DEFINE_float(
    'density', 0.5, 'Of the entries that ties and dare keep.', lower_bound=0.01, upper_bound=1
)
SEED = flags.DEFINE_integer('seed', 0, "Of dare's draws.")
DTYPE = flags.DEFINE_enum(
    'dtype', '', ['', *DTYPES], "merge: of the weights; by default the base's."
)


def main(action: str) -> object:
    """Converts, and returns the directory."""
    require_read(table({'combine density seed': 'to_peft merge', 'dtype': 'merge'}), action)
    sources = [_weighted(part) for part in str(SOURCE.value).split(',')]
    base, target = str(BASE.value), Path(str(TARGET.value))
    if action == 'from_peft':
        if len(sources) > 1:
            raise ValueError('from_peft takes one --source: combine several with to_peft first.')
        return adapter_files.from_peft(Path(sources[0][0]), base, target)
    how: dict[str, Any] = {'way': COMBINE.value, 'density': DENSITY.value, 'seed': SEED.value}
    if action == 'to_peft':
        return adapter_files.to_peft(sources, base, target, **how)
    return adapter_files.merge(sources, base, target, str(DTYPE.value), **how)


def _weighted(part: str) -> tuple[str, float]:
    """'adapters/a=0.7' -> ('adapters/a', 0.7); without a number 1."""
    if not part.strip():
        raise ValueError(f'--source={SOURCE.value} has a comma with nothing beside it: remove it.')
    place, _, weight = part.rpartition('=')
    try:
        found = float(weight)
    except ValueError:
        return part.strip(), 1.0
    if not math.isfinite(found):
        raise ValueError(f'--source={part}: {weight} is no weight: give a finite number.')
    return place.strip(), found


if __name__ == '__main__':
    cli.run(main, actions=('to_peft', 'from_peft', 'merge'), required=('source', 'target'))
