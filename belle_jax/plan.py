"""Tells what a run takes on machines that are not there: memory, time, money.

    belle-jax plan --config=sft_llama:7b --topology=v5e:4x8
    belle-jax plan --config=sft_bloom:7b1 --topology=v5p:2x2x2 --search --output=plan.json
    belle-jax plan --config=sft_llama:7b --topology=h200:8 --tokens=3e8 --price_per_chip_hour=3.5
    belle-jax plan --config=sft_llama:7b --topology=h200:1 --sample=8x2048

The training step is compiled by the real compilers (`.ci/compilers FOLDER` installs them: put the
folder on PYTHONPATH), for a topology such as v4:2x2x4, v5e:4x8, v5p:2x2x2, v6e:4x4, 2xv5e:4x8
(two slices), h200:8 or h200:8x4 (four machines). Weights need not be there: the shape of a model
follows from its name. On TPUs time is the compiler's own estimate, kernels and links by their
makers' figures; on GPUs only what a step takes at least is known. --search tries meshes, rows of a
micro-batch and what is kept for the backward pass; it takes a minute or two each. --sample plans
the loop of `belle-jax sample` instead, for so many answers at a time and tokens of each, the model
split over all devices.
"""

import json
import os
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from belle_jax import cli
from belle_jax.files import write_text

CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,
    'The recipe: a name or a file, NAME or configs/NAME.py, or either with :VARIANT.',
    lock_config=True,
)
TOPOLOGY = flags.DEFINE_string('topology', None, 'Chip and number: v5e:4x8, v5p:2x2x2, h200:8.')
SEARCH = flags.DEFINE_boolean('search', False, "Look for the best layout, instead of the recipe's.")
MOST = flags.DEFINE_integer('most', 12, 'Layouts that --search tries at most.', lower_bound=1)
SAMPLE = flags.DEFINE_string('sample', '', 'ROWSxTOKENS: plans decoding, of so many answers.')
TOKENS = flags.DEFINE_float('tokens', None, 'Of the whole run, padding included: tells its hours.')
PRICE = flags.DEFINE_float('price_per_chip_hour', None, 'USD.', lower_bound=0)
OPTIONS = flags.DEFINE_list('options', [], "Of XLA's compiler, NAME=VALUE, over our own.")
OUTPUT = flags.DEFINE_string('output', '', 'JSON file.')
PROGRAM = flags.DEFINE_string('program', '', "File for the best one's compiled program, as text.")


def main() -> str:
    """Compiles, and returns what it came to."""
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    import jax

    jax.config.update('jax_platforms', 'cpu')
    from belle_jax import config
    from belle_jax.planning import answering, planner
    from belle_jax.progress import Progress

    run, topology = config.resolve(CONFIG.value), str(TOPOLOGY.value)
    options = dict(option.split('=', 1) for option in OPTIONS.value)
    if SAMPLE.value:
        answers = answering.plan(run, topology, *answering.sizes(SAMPLE.value), options)
        return _written([answering.facts(answers)], answers.program.text, answering.text(answers))
    plans = []
    if SEARCH.value:
        tried = list(planner.candidates(run, topology))[: MOST.value]
        progress = Progress('compiling', 'layouts', len(tried))
        for number, candidate in enumerate(tried, 1):
            plans.append(planner.plan(candidate, topology, options))
            progress.show(number)
        progress.end(len(tried))
        plans.sort(key=lambda p: (not p.fits, (p.seconds or p.floor) / p.tokens))
    else:
        plans.append(planner.plan(run, topology, options))
    said = planner.text(plans[0], TOKENS.value, PRICE.value)
    said = f'{planner.table(plans)}\n\n{said}' if SEARCH.value else said
    return _written([planner.facts(p) for p in plans], plans[0].step.text, said)


def _written(facts: list[dict[str, Any]], program: str, said: str) -> str:
    """Writes the files that were asked for, and gives what is said."""
    if OUTPUT.value:
        write_text(Path(OUTPUT.value), json.dumps(facts, indent=1) + '\n')
    if PROGRAM.value:
        write_text(Path(PROGRAM.value), program)
    return said


if __name__ == '__main__':
    cli.run(main, required=('config', 'topology'))
