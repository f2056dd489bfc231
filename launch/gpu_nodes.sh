#!/usr/bin/env bash
# Trains on several GPU machines without a scheduler: the same line on each, with its rank.
#
#   COORDINATOR=10.0.0.1:8476 launch/gpu_nodes.sh 0 CONFIG WORKDIR [train flags ...]    on 10.0.0.1
#   COORDINATOR=10.0.0.1:8476 launch/gpu_nodes.sh 1 CONFIG WORKDIR [train flags ...]    on the other
#   launch/gpu_nodes.sh --dry_run 0 CONFIG WORKDIR [train flags ...]    prints what it would run
#
# Run it from the repository's root, with a .venv there (pip install -e '.[cuda]'), the same version
# on all machines; WORKDIR and the weights lie on storage that all of them see. One process drives
# all GPUs of its machine. Ctrl-C or SIGTERM on one machine saves, and ends all. Where machines have
# slow links between them, --config.mesh.dcn_data=MACHINES keeps a copy on each: docs/clusters.md.
#
# A machine that was lost is started again by hand; the others wait for it and go on together.
set -euo pipefail
coordinator=${COORDINATOR:-} # address and a free port of the machine with rank 0
machines=${MACHINES:-2}
python=${PYTHON:-.venv/bin/python}
restarts=${RESTARTS:-20} # after a machine was lost (exit code 75)
pause=${PAUSE:-10}       # seconds before that

dry_run=
case ${1:-} in
  --help) sed -n '1d; /^#\( \|$\)/!q; s/^# \{0,1\}//p' "$0"; exit ;;
  --dry_run) dry_run=yes; shift ;;
esac
[ $# -ge 3 ] || { echo "usage: $0 RANK CONFIG WORKDIR [train flags ...]" >&2; exit 2; }
rank=$1 config=$2 workdir=$3
shift 3
[ -n "$coordinator" ] || {
  echo "$0: set COORDINATOR to ADDRESS:PORT of the machine with rank 0, as the others reach it" >&2
  exit 2
}
[[ $rank =~ ^[0-9]+$ && $rank -lt $machines ]] || {
  echo "$0: rank $rank of $machines machines: give 0 to $((machines - 1)), or set MACHINES" >&2
  exit 2
}

command=("$python" -m belle_jax.train --coordinator="$coordinator" --processes="$machines"
  --process="$rank" --config="$config" --workdir="$workdir" "$@")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi

# In the background, so that a SIGTERM to this script reaches training at once, which then saves.
training='' stopping=''
trap 'stopping=yes; [ -z "$training" ] || kill -TERM "$training" 2>/dev/null || true' TERM INT HUP
for ((attempt = 0; ; attempt++)); do
  "${command[@]}" &
  training=$!
  code=0
  wait "$training" || code=$?
  while kill -0 "$training" 2>/dev/null; do # a signal ended `wait`, not training
    code=0
    wait "$training" || code=$?
  done
  [ "$code" = 75 ] && [ -z "$stopping" ] && [ "$attempt" -lt "$restarts" ] || exit "$code"
  echo "A machine was lost: trying again in $pause seconds, to go on from the last checkpoint." >&2
  sleep "$pause"
  [ -z "$stopping" ] || exit 143
done
