#!/usr/bin/env bash
# Runs mmdcodec on a SLURM cluster, with one process for each GPU.
#
#   launch/slurm.sh [OPTION ...] [SBATCH OPTION ...] -- mmdcodec VERB ...
#
#   --nodes          (1)
#   --gpus-per-node  (8); 0: one process for each node, on CPUs
#   --cpus-per-task  of each process (the cluster's default)
#   --restarts       how often to start again in place after a failure (0)
#   --warning        seconds before the time limit at which the run saves its
#                    state; it is then queued again (300)
#   --dry-run        only print the commands
#
# Any other option goes to sbatch, written in one word: --partition=gpu,
# --time=24:00:00, --account=NAME. Call it in an environment in which mmdcodec
# is installed, from a folder that all nodes share; the output goes there. After
# exit code 75 (preempted, out of time, a node is gone) the job is queued again.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
NODES=1 GPUS_PER_NODE=8 CPUS_PER_TASK='' RESTARTS=0 WARNING=300
read_options "nodes gpus-per-node cpus-per-task restarts warning" "$@"
require_count NODES GPUS_PER_NODE RESTARTS WARNING
require_command

tasks=$((GPUS_PER_NODE > 0 ? GPUS_PER_NODE : 1))
options=(--job-name=mmdcodec --output=mmdcodec-%j.log --open-mode=append
  --nodes="$NODES" --ntasks-per-node="$tasks" --requeue
  --signal="TERM@$WARNING")
[[ ! $CPUS_PER_TASK ]] || options+=(--cpus-per-task="$CPUS_PER_TASK")
((GPUS_PER_NODE == 0)) || options+=(--gpus-per-node="$GPUS_PER_NODE")
run sbatch "${options[@]}" "${EXTRA[@]}" \
  "$LAUNCH/slurm_job.sh" "$LAUNCH" "$RESTARTS" "${COMMAND[@]}"
if [[ $DRY_RUN ]]; then
  SLURM_CPUS_PER_TASK=$CPUS_PER_TASK job_step
  quoted "${STEP[@]}"
fi
