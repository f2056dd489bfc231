#!/usr/bin/env bash
# Trains on a TPU slice of any size: the same command runs on every host of the slice at once.
#
#   launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [train flags ...]
#   launch/tpu_pod.sh my-v5e-64 europe-west4-b configs/sft_llama.py:7b /mnt/storage/runs/sft \
#     --config.model.source=/mnt/storage/weights/llama-7b-hf
#
# Needs gcloud, a TPU VM that exists, and a clone of this repository in ~/belle-jax on each host
# (launch/tpu_pod.sh NAME ZONE --setup makes it from REPOSITORY). WORKDIR must be storage that all
# hosts see: Filestore, or a bucket mounted with gcsfuse. The same command again continues the run;
# after a preemption that is all there is to do.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '4,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
name=$1 zone=$2
shift 2

on_every_host() {
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"
}

if [ "$1" = --setup ]; then
  repository=${REPOSITORY:?set REPOSITORY to the address of your clone, for git}
  on_every_host "set -e; [ -d belle-jax ] || git clone $(printf %q "$repository") belle-jax
    cd belle-jax && python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'"
  exit
fi

[ $# -ge 2 ] || { echo "$0: WORKDIR is missing after CONFIG $1" >&2; exit 2; }
config=$1 workdir=$2
shift 2
# On TPU VMs JAX finds the other hosts by itself, so --distributed needs no address. `exec` lets the
# SIGTERM of a preemption reach Python, which saves before it leaves.
on_every_host "cd belle-jax && exec .venv/bin/python -m belle_jax.train --distributed \
  $(printf '%q ' "--config=$config" "--workdir=$workdir" "$@")"
