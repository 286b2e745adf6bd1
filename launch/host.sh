#!/usr/bin/env bash
# Installs mmdcodec on a host of a cluster and runs it there; called by other
# scripts, on each host.
#
#   host.sh setup EXTRAS [COMMIT]
#                               installs mmdcodec into a virtual environment;
#                               its runs record this commit
#   host.sh run COMMAND ...     runs it
#   host.sh start COMMAND ...   runs it in the background, after an earlier one
#                               has ended
#   host.sh status              prints "status: new" before setup, "gone" if no
#                               run was started since the host has booted,
#                               "running", or its exit code
#   host.sh stop                sends SIGTERM and waits
#   host.sh log                 follows the output
#   host.sh why                 prints the end of it if the run failed here

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"
# Seconds in which a run must have saved its state after SIGTERM.
PATIENCE=${PATIENCE:-300}
verb=${1:-}
(($# == 0)) || shift

# Whether the processes of the run are there; they are a group, `group`.
running() {
  local boot
  [[ -f run.group ]] && read -r group boot <run.group &&
    [[ $boot == "$(</proc/sys/kernel/random/boot_id)" ]] &&
    kill -0 -- "-$group" 2>/dev/null
}

# Sends a signal to the run and waits: end SIGNAL SECONDS.
end() {
  local looks=$((5 * $2))
  ! running || kill -"$1" -- "-$group"
  while running && ((looks-- > 0)); do
    sleep 0.2
  done
}

stop() {
  end TERM "$PATIENCE"
  running || return 0
  say "the run is still there $PATIENCE s after SIGTERM; it is killed."
  end KILL 10
}

case $verb in
  setup)
    # The Python of TPU hosts is too old, and that of others may be managed by
    # the system, which a package in the user's folder does not harm.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --clear --python 3.12 .venv
    python3 -m uv pip install --quiet --python .venv/bin/python ".[$1]"
    echo "${2:-}" >.ready
    ;;
  start)
    stop
    rm -f run.code
    # In a group of its own, which outlives the connection.
    setsid "$LAUNCH/host.sh" run "$@" >>run.log 2>&1 </dev/null &
    # Numbers of processes mean nothing after a reboot.
    echo "$! $(</proc/sys/kernel/random/boot_id)" >run.group
    until running || [[ -f run.code ]]; do
      sleep 0.1
    done
    ;;
  run)
    # This shell must outlive a SIGTERM to the group.
    trap : TERM
    code=0
    [[ ! -f .ready ]] || MMDCODEC_COMMIT=$(<.ready)
    export MMDCODEC_COMMIT
    PATH=$ROOT/.venv/bin:$PATH "$LAUNCH/flags.sh" "$@" || code=$?
    echo "$code" >run.code
    exit "$code"
    ;;
  status)
    status=gone
    if [[ ! -f .ready ]]; then
      status=new
    elif running; then
      status=running
    elif [[ -f run.code ]]; then
      status=$(<run.code)
    fi
    echo "status: $status"
    ;;
  stop) stop ;;
  why)
    code=0
    [[ ! -f run.code ]] || code=$(<run.code)
    ((code == 0 || code == AGAIN)) || tail -n 30 run.log
    ;;
  log) exec tail -n 100 -F run.log ;;
  *) usage && exit 2 ;;
esac
