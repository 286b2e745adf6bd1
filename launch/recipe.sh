# shellcheck shell=bash
# What the recipes share; they source this file.
#
# A recipe is one command: it trains a model of its published size on a slice,
# or, with COMPILE=1, compiles that step ahead of time.

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# Splits the arguments of a recipe: the launcher, then `--` and settings.
LAUNCHER=("$LAUNCH/local.sh") SETTINGS=()
if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  usage
  exit
elif (($#)) && [[ $1 != -- ]]; then
  LAUNCHER=()
fi
while (($#)) && [[ $1 != -- ]]; do
  LAUNCHER+=("$1")
  shift
done
(($# == 0)) || SETTINGS=("${@:2}")

# Dies unless these variables are set; compiling needs none: needs NAME ...
needs() {
  local name
  for name in "$@"; do
    if [[ ${COMPILE:-} ]]; then
      printf -v "$name" ''
    elif [[ ! ${!name:-} ]]; then
      die "$name is not set; see --help."
    fi
  done
}

other_slice() {
  die "there are no settings for SLICE=$SLICE; expected $*."
}

# Trains or compiles: recipe CONFIG SETTING ... -- SETTING ..., those after the
# `--` for training alone.
recipe() {
  local config=--config=$1 sized=()
  shift
  while [[ $1 != -- ]]; do
    sized+=("$1")
    shift
  done
  shift
  sized+=("${SETTINGS[@]}")
  if [[ ${COMPILE:-} ]]; then
    exec "$LAUNCH/flags.sh" mmdcodec compile "$config" --topology="$SLICE" \
      "${sized[@]}"
  fi
  export SLICE
  exec "${LAUNCHER[@]}" -- mmdcodec train "$config" --workdir="$WORKDIR" \
    --config.data.train="$DATA" "$@" "${sized[@]}"
}
