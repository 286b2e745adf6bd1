#!/usr/bin/env bash
# Runs mmdcodec on a slice of Cloud TPUs, asked for as a queued resource.
#
#   launch/tpu_queued_resource.sh VERB --name NAME --zone ZONE --slice SLICE \
#       [OPTION ...] [GCLOUD OPTION ...] -- mmdcodec VERB ...
#
#   up       does all that follows, until the run has ended: asks for the slice,
#            sets it up, runs, asks for it again after preemption, runs again
#            after exit code 75, deletes it. It may be stopped and started
#            again, elsewhere too: it looks at what is there. It waits for
#            hosts that do not answer as long as the slice is ACTIVE; if they
#            stay silent, `delete` the slice, and `up` asks for another one.
#   create   asks for the slice
#   setup    copies these sources to all hosts and installs them
#   run      starts the command on all hosts, after stopping an earlier one
#   logs     follows the output of host 0
#   stop     has the run save its state and end; end `up` first, wherever it
#            is running, or it starts the run again
#   delete   deletes the slice
#
#   --slice     v5e:4x4, v5p:2x2x4, 2xv5e:4x4, ..., as for `mmdcodec compile
#               --topology`; of v4 and v5p in the default shape for its number
#               of chips
#   --project   (default: that of gcloud's configuration)
#   --restarts  how often to run again after an exit code other than 75 (0)
#   --extras    of mmdcodec to install (tpu,gcs,hub)
#   --keep      1: do not delete the slice when the run has ended
#   --dry-run   only print the commands
#
# Any other option goes to `gcloud ... queued-resources create`, written in one
# word: --spot, --reserved, --service-account=NAME. The workdir and the data
# must be where all hosts reach them, such as gs://BUCKET/FOLDER. POLL=30 is the
# seconds between two looks.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
SLICE=${SLICE:-} PROJECT='' RESTARTS=0 EXTRAS=tpu,gcs,hub KEEP=''
verb=${1:---help}
[[ $verb == -* ]] || shift
read_options "name zone slice project restarts extras keep" "$@"
require "name zone"
require_count RESTARTS
# shellcheck disable=SC2153 # read_options sets it
readonly NAME

place=(--zone="$ZONE")
[[ ! $PROJECT ]] || place+=(--project="$PROJECT")

tpus() {
  run gcloud compute tpus queued-resources "$@" "${place[@]}"
}

# Runs a command on hosts: on_hosts NODE WORKER COMMAND, where all is possible.
on_hosts() {
  tpus ssh "$NAME" --node="$1" --worker="$2" --command="$3"
}

create() {
  local nodes=(--node-id="$NAME")
  ((SLICES == 1)) || nodes=(--node-count="$SLICES")
  tpus create "$NAME" "${nodes[@]}" --accelerator-type="$ACCELERATOR" \
    --runtime-version="$RUNTIME" "${EXTRA[@]}"
}

delete() {
  tpus delete "$NAME" --force --quiet
}

setup() {
  local file code=0
  file=$(mktemp -u).tar.gz
  # `up` goes on after a failure, so that `set -e` ends nothing here: hosts
  # must not unpack what an earlier attempt left there.
  run tar -czf "$file" -C "$ROOT" --exclude=__pycache__ \
    mmdcodec configs launch setup.py pyproject.toml README.md LICENSE &&
    tpus scp "$file" "$NAME:mmdcodec.tar.gz" --node=all --worker=all ||
    code=$?
  run rm -f "$file"
  ((code == 0)) || return "$code"
  on_hosts all all "mkdir -p mmdcodec && tar -xzf mmdcodec.tar.gz -C mmdcodec \
&& mmdcodec/launch/host.sh setup $(quoted "$EXTRAS" "$(source_commit)")"
}

start() {
  on_hosts all all "mmdcodec/launch/host.sh start $(quoted "${COMMAND[@]}")"
}

# Prints the state of the queued resource, or MISSING, or UNKNOWN.
state() {
  local answer
  if answer=$(tpus describe "$NAME" --format='value(state.state)' 2>&1); then
    echo "$answer"
  elif [[ $answer == *NOT_FOUND* ]]; then
    echo MISSING
  else
    say "gcloud: $answer"
    echo UNKNOWN
  fi
}

# Prints what the hosts say together: new, running, the exit code of the run, or
# UNKNOWN if some are silent.
status() {
  local answers expected=$((HOSTS * SLICES))
  mapfile -t answers < <(on_hosts all all \
    "mmdcodec/launch/host.sh status 2>/dev/null || echo status: new" \
    2>/dev/null | sed -n 's/^status: //p')
  if ((${#answers[@]} != expected)); then
    say "${#answers[@]} of $expected hosts answer."
    echo UNKNOWN
  elif [[ " ${answers[*]} " == *" new "* ]]; then
    echo new
  elif [[ " ${answers[*]} " == *" running "* ]]; then
    # Also if it has ended on some hosts: the others are about to notice.
    echo running
  else
    combine "${answers[@]//gone/$AGAIN}"
  fi
}

# Goes on until the run has ended, whatever is there already.
up() {
  local before='' now asked='' code
  while true; do
    now=$(state)
    [[ $now == "$before" ]] || say "the slice is $now."
    before=$now
    case $now in
      MISSING)
        # A mistake in the options shows at once; later, the cloud is to blame.
        create || [[ $asked ]]
        asked=1
        ;;
      SUSPENDED | FAILED)
        # Preempted, or not to be had; a queued resource comes back only as a
        # new one.
        delete || true
        asked=1
        ;;
      ACTIVE)
        asked=1
        code=$(status)
        case $code in
          new)
            say "the hosts are new; they are set up and started."
            { setup && start; } || true
            ;;
          running | UNKNOWN) ;;
          *)
            again "$code" || break
            start || true
            ;;
        esac
        ;;
    esac
    sleep "$POLL"
  done
  on_hosts all all "mmdcodec/launch/host.sh why" || true
  ended "$code"
  [[ $KEEP ]] || delete
  exit "$code"
}

case $verb in
  up)
    require slice
    read_slice "$SLICE"
    require_command
    if [[ $DRY_RUN ]]; then
      create && setup && start
      tpus describe "$NAME" --format='value(state.state)'
      on_hosts all all "mmdcodec/launch/host.sh status"
      delete
    else
      up
    fi
    ;;
  create)
    require slice
    read_slice "$SLICE"
    create
    ;;
  setup) setup ;;
  run) require_command && start ;;
  logs) on_hosts 0 0 "mmdcodec/launch/host.sh log" ;;
  stop) on_hosts all all "mmdcodec/launch/host.sh stop" ;;
  delete) delete ;;
  *) die "'$verb' is not a verb; see --help." ;;
esac
