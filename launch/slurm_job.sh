#!/usr/bin/env bash
# The batch script of `slurm.sh`: slurm_job.sh LAUNCH RESTARTS COMMAND ...
#
# SLURM runs a copy of it, so it is told where the other scripts are. SIGTERM
# must end it: of a job that the user has cancelled, only the steps save.

# shellcheck source=SCRIPTDIR/common.sh
source "$1/common.sh"
RESTARTS=$2
COMMAND=("${@:3}")
job_step

# Sets `code`. srun returns the greatest code of all tasks, see slurm_task.sh.
one_run() {
  code=0
  "${STEP[@]}" || code=$?
  ((code < 176 || code > 250)) || ((code -= 176))
}

one_run
while ((code != AGAIN)) && again "$code"; do
  one_run
done
if ((code == AGAIN)); then
  say "the run has stopped; it is queued again."
  scontrol requeue "$SLURM_JOB_ID" || say "SLURM did not queue it again."
else
  ended "$code"
fi
exit "$code"
