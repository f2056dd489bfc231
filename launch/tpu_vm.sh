#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any size: the same command runs on every host of it.
#
#   export NAME=belle ZONE=europe-west4-b TYPE=v5litepod-16
#   launch/tpu_vm.sh create    makes the slice; with SPOT=yes a cheaper one, that may be taken away
#   launch/tpu_vm.sh setup     puts the last commit here and its libraries on every host
#   launch/tpu_vm.sh train CONFIG WORKDIR [train flags ...]    starts, or goes on, in the background
#   launch/tpu_vm.sh log       follows what training says; Ctrl-C ends the following alone
#   launch/tpu_vm.sh stop      training saves and leaves
#   launch/tpu_vm.sh fetch WORKDIR FOLDER    copies the run, or anything in it, to this machine
#   launch/tpu_vm.sh delete    ends the slice and its cost
#   launch/tpu_vm.sh --dry_run COMMAND ...   prints what COMMAND would run
#
# Needs gcloud, logged in, with a project. WORKDIR and the weights lie in a bucket (gs://...), of
# which each host has a copy on its disk, or on storage that all see (Filestore). After a slice was
# taken away: delete, create, setup, train with the same WORKDIR. More slices: launch/jobset.yaml.
set -euo pipefail
name=${NAME:-belle-jax}
zone=${ZONE:-europe-west4-b}
type=${TYPE:-v5litepod-16}
spot=${SPOT:-}
case $type in # the image of the hosts
  v5litepod-*) version=v2-alpha-tpuv5-lite ;;
  v5p-*) version=v2-alpha-tpuv5 ;;
  v6e-*) version=v2-alpha-tpuv6e ;;
  *) version=tpu-ubuntu2204-base ;; # v4 and before
esac

dry_run=
case ${1:---help} in
  --help) sed -n '1d; /^#\( \|$\)/!q; s/^# \{0,1\}//p' "$0"; exit ;;
  --dry_run) dry_run=yes; shift ;;
esac
action=${1:-} usage="usage: $0 ${1:-COMMAND}"
[ $# -eq 0 ] || shift

run() {
  if [ -n "$dry_run" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}
tpu() { # create|delete|ssh|scp, its arguments
  run gcloud compute tpus tpu-vm "$@" --zone="$zone"
}
on() { # hosts, command
  tpu ssh "$name" --worker="$1" --command="$2"
}

case $action in
  create)
    tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot} ;;
  setup)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    run git archive --format=tar.gz --output="$archive" HEAD
    tpu scp "$archive" "$name:belle-jax.tar.gz" --worker=all
    # The hosts' own Python may be older than 3.11; uv brings one.
    on all 'set -e; rm -rf belle-jax; mkdir belle-jax; tar -xzf belle-jax.tar.gz -C belle-jax
      python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --allow-existing --python=3.11 venv
      python3 -m uv pip install --quiet --python=venv --editable "./belle-jax[tpu,remote]"' ;;
  train)
    [ $# -ge 2 ] || { echo "$usage CONFIG WORKDIR [train flags ...]" >&2; exit 2; }
    config=$1 workdir=$2
    shift 2
    flags=$(printf '%q ' --config="$config" --workdir="$workdir" "$@")
    # Away from the connection (setsid), so that it may break; SIGTERM before a preemption saves.
    on all "if kill -0 \$(cat train.pid) 2>/dev/null; then echo 'it trains already' >&2; exit 1; fi
      (cd belle-jax; exec setsid ../venv/bin/python -m belle_jax.train $flags) \\
        </dev/null >>train.log 2>&1 & echo \$! >train.pid" ;;
  log) on 0 "tail --lines=+1 --follow --pid=\$(cat train.pid) train.log" ;;
  stop) on all "kill -TERM \$(cat train.pid)" ;;
  fetch)
    [ $# -eq 2 ] || { echo "$usage WORKDIR FOLDER" >&2; exit 2; }
    case $1 in
      gs://*) run gcloud storage cp "$1" "$2" --recursive ;;
      *) tpu scp "$name:$1" "$2" --recurse --worker=0 ;;
    esac ;;
  delete) tpu delete "$name" --quiet ;;
  *) echo "$0: '$action' is none of its commands: --help lists them" >&2; exit 2 ;;
esac
