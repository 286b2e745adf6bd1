#!/usr/bin/env bash
# Runs mmdcodec on TPU slices of a GKE cluster, as a JobSet (gke_jobset.yaml).
#
#   launch/gke_jobset.sh VERB --name NAME --slice SLICE --image IMAGE \
#       [OPTION ...] -- mmdcodec VERB ...
#
#   up       starts it, and waits until it has ended
#   run      starts it
#   watch    waits until it has ended, and ends with its exit code
#   logs     follows the output of host 0
#   delete   ends and deletes it
#
#   --slice      v5e:4x4, v5p:2x2x4, 2xv5e:4x4, ..., as for `mmdcodec compile
#                --topology`
#   --image      made with launch/Dockerfile
#   --restarts   how often Kubernetes starts it again after a failure (0); after
#                exit code 75, or when a node is gone, it always does
#   --queue      of Kueue (multislice-queue, that of clusters made with xpk)
#   --namespace  (default)
#   --dry-run    only print the JobSet and the commands
#
# kubectl must be connected to the cluster: gcloud container clusters
# get-credentials CLUSTER. Tokens come from a secret named mmdcodec, if there is
# one. POLL=30 is the seconds between two looks.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
SLICE=${SLICE:-} IMAGE='' RESTARTS=0 QUEUE=multislice-queue
NAMESPACE=default
verb=${1:---help}
[[ $verb == -* ]] || shift
read_options "name slice image restarts queue namespace" "$@"
((${#EXTRA[@]} == 0)) || die "unknown option ${EXTRA[0]}; see --help."
require name
require_count RESTARTS
# shellcheck disable=SC2153 # read_options sets it
pods=jobset.sigs.k8s.io/jobset-name=$NAME

kube() {
  run kubectl --namespace="$NAMESPACE" "$@"
}

start() {
  require "slice image"
  require_command
  read_slice "$SLICE"
  local yaml words
  words=$(json_list "${COMMAND[@]}")
  yaml=$(render "$LAUNCH/gke_jobset.yaml" NAME="$NAME" QUEUE="$QUEUE" \
    RESTARTS="$RESTARTS" SLICES="$SLICES" HOSTS="$HOSTS" IMAGE="$IMAGE" \
    GKE_ACCELERATOR="$GKE_ACCELERATOR" SIDES="$SIDES" \
    CHIPS_PER_HOST="$CHIPS_PER_HOST" COMMAND="$words")
  [[ ! $DRY_RUN ]] || echo "$yaml"
  kube apply --filename=- <<<"$yaml"
}

# The code of each container that has ended, then combined.
exit_code() {
  local codes
  codes=$(kube get pods --selector="$pods" --output=jsonpath='{range .items[*]}
{.status.containerStatuses[0].state.terminated.exitCode}{end}')
  # shellcheck disable=SC2086 # words
  combine $codes
}

watch() {
  local state='' code=0
  # Its name, so that one that is there differs from none.
  local look=(get jobset "$NAME" --ignore-not-found
    --output=jsonpath='{.metadata.name} {.status.terminalState}')
  if [[ $DRY_RUN ]]; then
    kube "${look[@]}"
    return
  fi
  until [[ $state == *\ Completed || $state == *\ Failed ]]; do
    sleep "$POLL"
    # Without an answer it looks again.
    state=$(kube "${look[@]}") || continue
    [[ $state ]] || die "there is no JobSet $NAME, or not any more."
  done
  if [[ $state == *\ Failed ]]; then
    code=$(exit_code)
    # Kubernetes may have given up for another reason.
    ((code != 0)) || code=1
  fi
  ended "$code"
  exit "$code"
}

case $verb in
  up)
    # Not with &&, within which set -e is off.
    start
    watch
    ;;
  run) start ;;
  watch) watch ;;
  logs)
    kube logs --follow --selector="$pods,jobset.sigs.k8s.io/job-index=0,\
batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) kube delete jobset "$NAME" ;;
  *) die "'$verb' is not a verb; see --help." ;;
esac
