"""Trains a model: full fine-tuning, continued pretraining, or from nothing.

    python -m belle_jax.train --config=configs/sft_llama_7b.py:7b --workdir=runs/sft

A recipe in configs/ sets what it is about; any field is overridden by its name, as in
--config.optim.learning_rate=5e-6. The same command again continues where the run was. All that a
run leaves is in --workdir: config.json, checkpoints/, metrics/, tokenizer/, data.json.
"""

import os
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
CPU_DEVICES = flags.DEFINE_integer('cpu_devices', None, 'Pretend to have so many devices (CPU).')


def main(argv: list[str]) -> None:
    """Resolves the configuration and trains."""
    if len(argv) > 1:
        raise app.UsageError(f'{argv[1]!r} is not a flag: flags are written --name=value.')
    import jax

    from belle_jax import config

    run = config.resolve(CONFIG.value)
    if run.train.deterministic:
        os.environ['XLA_FLAGS'] = (
            os.environ.get('XLA_FLAGS', '') + ' --xla_gpu_deterministic_ops=true'
        )
    if CPU_DEVICES.value:
        jax.config.update('jax_num_cpu_devices', CPU_DEVICES.value)
    if DISTRIBUTED.value:
        jax.distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    from belle_jax.training.loop import Trainer

    workdir = Trainer(run, Path(str(WORKDIR.value))).train()
    print(f'The run is in {workdir}')


def run_main(argv: list[str]) -> None:
    """`main`, with a person's mistakes as one sentence."""
    try:
        main(argv)
    except (ValueError, OSError) as error:
        if logging.vlog_is_on(1):
            raise
        sys.exit(f'belle_jax.train: {error}')


if __name__ == '__main__':
    flags.mark_flags_as_required(['config', 'workdir'])
    logging.set_verbosity(logging.WARNING)  # Orbax tells every array that it writes
    app.run(run_main)
