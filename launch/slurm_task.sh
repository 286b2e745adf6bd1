#!/usr/bin/env bash
# One process of a run on SLURM: slurm_task.sh COMMAND ...
#
# Of all tasks, srun returns the greatest exit code. When one fails the others
# end with 75, which must not hide the failure: codes from 1 to 74 become those
# from 177, which nothing else uses.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# SIGTERM is for the command.
trap : TERM
code=0
"$LAUNCH/flags.sh" "$@" || code=$?
if ((code > 0 && code != AGAIN)); then
  say "process ${SLURM_PROCID:-} failed with exit code $code."
fi
if ((code > 0 && code < AGAIN)); then
  ((code += 176))
fi
exit "$code"
