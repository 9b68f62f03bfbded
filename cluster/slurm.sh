#!/usr/bin/env bash
# Training on Slurm: a Ray cluster on the nodes of an allocation, for the duration of the run.
#
#   sbatch --nodes=3 --gpus-per-node=1 cluster/slurm.sh EXPERIMENT CLUSTER [KEY=VALUE]...
#
# Run it in the root of a checkout on a disk that all nodes share, after `make .venv/.installed`. The
# first node is the head and has workers too. A job that is requeued or submitted again resumes.
#
#   scancel --batch --signal=TERM JOB   stop with a checkpoint, however long it takes
#   scancel JOB                         the same within Slurm's KillWait, by default 30 s
#SBATCH --job-name=nmt
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --output=nmt-%j.log
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "slurm.sh: usage: sbatch cluster/slurm.sh EXPERIMENT CLUSTER [KEY=VALUE]..." >&2
  exit 2
fi
if [ -z "${SLURM_JOB_NODELIST:-}" ]; then
  echo "slurm.sh: not in a Slurm allocation: submit this script with sbatch" >&2
  exit 2
fi
experiment=$1 cluster=$2
shift 2
cd "${SLURM_SUBMIT_DIR:-.}"
# A token for this job only, in a folder that all nodes share.
mkdir -p .ray-tokens
chmod 700 .ray-tokens
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PWD/.ray-tokens/$SLURM_JOB_ID
[ -e "$RAY_AUTH_TOKEN_PATH" ] || cluster/start.sh token

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address_of() { srun --nodes=1 --ntasks=1 -w "$1" hostname -I | cut -d' ' -f1; }
head=$(address_of "${nodes[0]}")
cpus=${SLURM_CPUS_PER_TASK:-4}

on_node() { srun --nodes=1 --ntasks=1 --overlap -w "$@"; }
# `scancel` sends TERM to every process, but Ray must live until training has written its
# checkpoint: TERM is blocked in all processes of a host.
block='import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.execv(sys.argv[1], sys.argv[1:])'
# Since Slurm 22.05 a step does not take over the CPUs per task of the job.
start_host() { on_node "$1" --cpus-per-task="$cpus" .venv/bin/python -c "$block" cluster/start.sh "${@:2}"; }

finish() {
  trap '' TERM
  [ -z "${driver:-}" ] || kill -TERM "$driver" 2>/dev/null || true
  [ -z "${driver:-}" ] || wait "$driver" || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
  for node in "${nodes[@]}"; do on_node "$node" cluster/start.sh stop; done || true
  # shellcheck disable=SC2046
  kill $(jobs -p) 2>/dev/null || true
}
trap finish EXIT
# Sent two minutes before the time limit: training writes a checkpoint and ends.
trap 'exit 143' TERM

start_host "${nodes[0]}" head "$head" --num-cpus="$cpus" --block &
head_process=$!
until .venv/bin/ray status --address "$head:6379" >/dev/null 2>&1; do
  kill -0 "$head_process" 2>/dev/null ||
    { echo "slurm.sh: Ray did not start on ${nodes[0]}; the reason is above" >&2; exit 2; }
  sleep 2
done
for node in "${nodes[@]:1}"; do
  start_host "$node" join "$head" "$(address_of "$node")" --num-cpus="$cpus" --block &
done

# Training that does not fit the hosts that have joined is refused. A host that does not join within
# a minute is not waited for.
num_hosts() { .venv/bin/ray status --address "$head:6379" 2>/dev/null | grep -c ' node_' || true; }
for _ in $(seq 30); do
  [ "$(num_hosts)" -ge "${#nodes[@]}" ] && break
  sleep 2
done

RAY_ADDRESS=$head:6379 .venv/bin/nmt train "$experiment" --cluster "$cluster" "$@" &
driver=$!
wait "$driver"
