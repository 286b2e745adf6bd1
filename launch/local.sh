#!/usr/bin/env bash
# Runs mmdcodec as one or several processes on this machine, and starts it again
# when it has stopped with exit code 75.
#
#   launch/local.sh [--processes N] [--restarts R] [--port PORT] [--dry-run] \
#       -- mmdcodec VERB ...
#
#   --processes  more than one connects that many, as on a cluster, for CPUs:
#                each would take all GPUs (default: 1, which uses all devices)
#   --restarts   how often to start again after any other exit code (default: 0)
#   --port       of process 0 (default: a random one)
#
# On SIGTERM or Ctrl-C the run saves its state, and is not started again.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
PROCESSES=1 RESTARTS=0 PORT=
read_options "processes restarts port" "$@"
((${#EXTRA[@]} == 0)) || die "unknown option ${EXTRA[0]}; see --help."
require_count PROCESSES RESTARTS
require_command

pids=()
stopping=
stop() {
  stopping=1
  kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap stop TERM INT

# Waits for a process and sets `code`.
finish() {
  # A signal to this script ends `wait`, but not the process.
  while kill -0 "$1" 2>/dev/null; do
    wait "$1" || true
  done
  code=0
  wait "$1" || code=$?
}

# Starts all processes, waits for them, and sets `code`.
one_run() {
  local id port pid arguments codes=()
  # Below the range from which the system takes ports.
  port=${PORT:-$((20000 + RANDOM % 12000))}
  pids=()
  for ((id = 0; id < PROCESSES; id++)); do
    arguments=()
    if ((PROCESSES > 1)); then
      arguments=(--coordinator="localhost:$port" --num-processes="$PROCESSES"
        --process-id="$id")
    fi
    set -- "$LAUNCH/flags.sh" "${COMMAND[@]}" "${arguments[@]}"
    if [[ $DRY_RUN ]]; then
      quoted "$@"
    elif ((PROCESSES > 1)); then
      "$@" > >(exec sed -u "s/^/[$id] /") 2>&1 &
    else
      "$@" &
    fi
    [[ $DRY_RUN ]] || pids+=($!)
  done
  [[ ! $stopping ]] || stop
  for pid in "${pids[@]}"; do
    finish "$pid"
    codes+=("$code")
  done
  code=$(combine "${codes[@]}")
}

one_run
while [[ ! $stopping ]] && again "$code" && [[ ! $stopping ]]; do
  one_run
done
[[ $DRY_RUN || $stopping ]] || ended "$code"
exit "$code"
