#!/usr/bin/env bash
# Runs mmdcodec as a managed job of SkyPilot (skypilot.yaml).
#
#   launch/skypilot.sh [OPTION ...] [SKY OPTION ...] -- mmdcodec VERB ...
#
#   --name          of the job (mmdcodec)
#   --slice         of TPUs, such as v5e:4x4; or
#   --accelerators  of each machine, in SkyPilot's words, such as H100:8
#   --nodes         machines with these accelerators (1)
#   --spot          true or false (true)
#   --restarts      how often to start again after a failure (0); after exit
#                   code 75, or preemption, SkyPilot always does
#   --extras        of mmdcodec to install (tpu,gcs,hub, or cuda,gcs,hub)
#   --dry-run       only print the job and the command
#
# Any other option goes to `sky jobs launch`, written in one word: --async,
# --infra=gcp. `sky jobs logs` follows the output, `sky jobs cancel` ends it.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
NAME=mmdcodec SLICE=${SLICE:-} ACCELERATORS='' NODES=1 SPOT=true RESTARTS=0
EXTRAS=''
read_options "name slice accelerators nodes spot restarts extras" "$@"
require_count NODES RESTARTS
require_command

if [[ $ACCELERATORS ]]; then
  EXTRAS=${EXTRAS:-cuda,gcs,hub}
else
  require slice
  read_slice "$SLICE"
  ACCELERATORS=tpu-$ACCELERATOR EXTRAS=${EXTRAS:-tpu,gcs,hub}
  ((SLICES == 1)) || die "SkyPilot connects no slices; give a single one."
  ((NODES == 1)) || die "--nodes is for GPUs; a slice has its own machines."
fi
command=$(quoted "${COMMAND[@]}")
if ((NODES > 1)); then
  # shellcheck disable=SC2016 # expanded on the machines
  command+=' --coordinator="$(head -n 1 <<<"$SKYPILOT_NODE_IPS"):8482"'
  # shellcheck disable=SC2016
  command+=' --num-processes="$SKYPILOT_NUM_NODES"'
  # shellcheck disable=SC2016
  command+=' --process-id="$SKYPILOT_NODE_RANK"'
fi

job=$(mktemp -d)
trap 'rm -r "$job"' EXIT
render "$LAUNCH/skypilot.yaml" NAME="$NAME" NODES="$NODES" SPOT="$SPOT" \
  ACCELERATORS="$ACCELERATORS" RESTARTS="$RESTARTS" ROOT="$ROOT" \
  EXTRAS="$EXTRAS" COMMIT="$(quoted "$(source_commit)")" COMMAND="$command" \
  >"$job/mmdcodec.yaml"
[[ ! $DRY_RUN ]] || cat "$job/mmdcodec.yaml"
run sky jobs launch --yes "${EXTRA[@]}" "$job/mmdcodec.yaml"
