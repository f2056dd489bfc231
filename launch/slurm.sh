#!/usr/bin/env bash
# Trains on a Slurm cluster: one process on each node, with all of the node's GPUs.
#
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh CONFIG WORKDIR [train flags ...]
#
# Submit from the repository's root, with a .venv there (pip install -e '.[cuda]') on storage that
# all nodes see; WORKDIR too. Partition, account and time are your cluster's: give them to sbatch.
#
#SBATCH --job-name=belle-jax
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --output=%x-%j.log
# Runs that are requeued go on from their last checkpoint: the same WORKDIR is all it takes.
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time is up, SIGTERM to every task: training saves and leaves.
#SBATCH --signal=TERM@120
set -euo pipefail
[ $# -ge 2 ] || { echo 'usage: sbatch launch/slurm.sh CONFIG WORKDIR [train flags ...]' >&2; exit 2; }
config=$1 workdir=$2
shift 2

# Inside srun JAX reads the number of processes and the first node's name from Slurm's variables.
# --kill-on-bad-exit: where one process has failed, the others would wait for it for ever.
exec srun --kill-on-bad-exit=1 \
  .venv/bin/python -m belle_jax.train --distributed --config="$config" --workdir="$workdir" "$@"
