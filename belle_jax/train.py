"""Trains a model: full fine-tuning, continued pretraining, or from nothing.

    python -m belle_jax.train --config=configs/sft_llama.py:7b --workdir=runs/sft

A recipe in configs/ sets what it is about; any field is overridden by its name, as in
--config.optim.learning_rate=5e-6. The same command again continues where the run was. All that a
run leaves is in --workdir: config.json, checkpoints/, metrics/, tokenizer/, data.json.
"""

import os
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The recipe: configs/NAME.py, or configs/NAME.py:VARIANT.', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory: made, or continued.')
DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'Several processes train as one (found by itself on TPU pods and Slurm).'
)
COORDINATOR = flags.DEFINE_string('coordinator', None, 'host:port of process 0, where not found.')
PROCESSES = flags.DEFINE_integer('processes', None, 'How many processes, where not found.')
PROCESS = flags.DEFINE_integer('process', None, "This process's number, where not found.")
STOPPED = 143
"""Exit code after SIGTERM or Ctrl-C: the run is saved and not finished."""

CPU_DEVICES = flags.DEFINE_integer('cpu_devices', None, 'Pretend to have so many devices (CPU).')


def main(argv: list[str]) -> None:
    """Resolves the configuration and trains."""
    if len(argv) > 1:
        raise ValueError(f'{argv[1]!r} is not a flag: flags are written --name=value.')
    import jax

    from belle_jax import config

    run = config.resolve(CONFIG.value)
    if run.train.deterministic:
        flag = ' --xla_gpu_deterministic_ops=true'
        os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + flag
    if CPU_DEVICES.value:
        jax.config.update('jax_num_cpu_devices', CPU_DEVICES.value)
    if DISTRIBUTED.value:
        jax.distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    elif (COORDINATOR.value, PROCESSES.value, PROCESS.value) != (None, None, None):
        raise ValueError(
            '--coordinator, --processes and --process are for several processes: add --distributed.'
        )
    from belle_jax.training.loop import Trainer

    trainer = Trainer(run, Path(str(WORKDIR.value)))
    workdir = trainer.train()
    print(f'The run is in {workdir}')
    if trainer.interrupted:
        sys.exit(STOPPED)


def run_main(argv: list[str]) -> None:
    """`main`, with a person's mistakes as one sentence."""
    logging.set_verbosity(logging.WARNING)  # Orbax tells every array that it writes
    try:
        main(argv)
    except (ValueError, OSError) as error:
        sys.exit(f'belle_jax.train: {one_line(error)}')
    except KeyboardInterrupt:
        sys.exit('belle_jax.train: stopped; the same command goes on from the last checkpoint.')
    except RuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        sys.exit(
            'belle_jax.train: the device is out of memory: raise --config.batch.accumulation, set '
            '--config.model.remat=block, or spread the model with --config.mesh.fsdp and '
            f'.tensor ({str(error).splitlines()[0][:200]}).'
        )


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; a recipe, variant or field that does not exist is one sentence as well."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, ImportError, KeyError, OSError, TypeError) as error:
        # absl quotes what ml_collections says, and puts a recipe's own traceback into its error,
        # whose last line says what happened.
        text = str(error.args[0]).replace('\\n', ' ').replace("\\'", '').strip('\'"')
        raised = re.findall(r'^\w+Error: (.*)$', text, re.MULTILINE)
        sys.exit(f'belle_jax.train: {one_line(raised[-1] if raised else text)}')


def one_line(text: object) -> str:
    """What was said, on one line."""
    return ' '.join(str(text).split())


if __name__ == '__main__':
    flags.mark_flags_as_required(['config', 'workdir'])
    app.run(run_main, flags_parser=parse)
