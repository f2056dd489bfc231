"""Trains a model: full fine-tuning, continued pretraining, or from nothing.

    belle-jax train --config=sft_llama:7b --workdir=runs/sft

A recipe sets what it is about (belle-jax --help lists them); any field is overridden by its name,
as in --config.optim.learning_rate=5e-6. The same command again continues where the run was. All
that a run leaves is in --workdir: config.json, checkpoints/, metrics/, tokenizer/, data.json, and
with --config.train.sample_prompts=FILE the model's answers along the way, samples/.

Several processes that Slurm, Kubernetes, mpirun or TPU machines start train as one, and so do those
that get --coordinator, --processes and --process. If one is lost, all end with exit code 75.
"""

import os
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from belle_jax import cli, cluster_flags
from belle_jax.runs.workdir import Workdir
from belle_jax.storage import is_remote

if TYPE_CHECKING:
    from belle_jax.cluster import Member
    from belle_jax.config import Run
    from belle_jax.training.loop import Trainer

CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,
    'The recipe: a name or a file, NAME or configs/NAME.py, or either with :VARIANT.',
    lock_config=True,
)
WORKDIR = flags.DEFINE_string(
    'workdir', None, 'The run directory, or gs://… or s3://…: made, or continued.'
)
STOPPED = 143
"""Exit code after SIGTERM or Ctrl-C: the run is saved and not finished."""

CPU_DEVICES = flags.DEFINE_integer('cpu_devices', None, 'Pretend to have that many devices (CPU).')


def main() -> int:
    """Resolves the configuration and trains; returns the exit code."""
    import jax

    from belle_jax import config

    run = config.resolve(CONFIG.value)
    if run.train.deterministic:
        flag = ' --xla_gpu_deterministic_ops=true'
        os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + flag
    if CPU_DEVICES.value:
        jax.config.update('jax_num_cpu_devices', CPU_DEVICES.value)
    workdir = Workdir(str(WORKDIR.value))
    with cluster_flags.joined(
        cluster_flags.find(),
        workdir.path / 'logs',
        {'--config': run.to_dict()},
        place=f'--workdir={workdir}',
        stopped=STOPPED,
        may_part=is_remote(str(WORKDIR.value)),
    ) as member:
        workdir.join(member)
        trainer = _train(run, workdir, member)
    return STOPPED if trainer.interrupted else 0


def _train(run: 'Run', workdir: Workdir, member: 'Member | None') -> 'Trainer':
    from belle_jax.training.loop import Trainer

    try:
        trainer = Trainer(run, workdir, member and member.stopping)
        trainer.train()
    except RuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise ValueError(
            'the device is out of memory: raise --config.batch.accumulation, set '
            '--config.model.remat=block, or spread the model with --config.mesh.fsdp and '
            f'.tensor ({str(error).splitlines()[0][:200]}).'
        ) from error
    print(f'The run is in {workdir}')
    return trainer


if __name__ == '__main__':
    cli.run(
        main,
        required=('config', 'workdir'),
        stopped='stopped; the same command goes on from the last checkpoint.',
        stopped_code=STOPPED,
    )
