# shellcheck shell=bash disable=SC2034
# What the scripts in this folder share; they source this file.
#
# mmdcodec ends with 0 when it is done, and with 75 when it has stopped on
# request or because another process of the run is gone: the same command then
# goes on where it was. Any other code is a failure.

set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "launch: this is bash $BASH_VERSION; the scripts need 4.4 or newer." >&2
  exit 2
fi

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$LAUNCH")
AGAIN=75
# Seconds between two looks at a run, and before it starts again.
POLL=${POLL:-30}
PAUSE=${PAUSE:-10}

say() {
  echo "launch: $*" >&2
}

die() {
  say "$@"
  exit 2
}

# Prints the comment at the top of the script, which is its usage text.
usage() {
  sed -n '2,/^[^#]*$/s/^# \{0,1\}//p' "$0"
}

# Prints a command so that a shell reads the same words again.
quoted() {
  local words
  printf -v words ' %q' "$@"
  echo "${words:1}"
}

# Runs a command, or with --dry-run only prints it.
run() {
  if [[ $DRY_RUN ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Reads a command line: `read_options "name zone" "$@"`.
#
# An option of that list sets the variable of its name (--name N or --name=N
# sets NAME); of any other one, --dry-run apart, EXTRA takes one word, and
# COMMAND all that follows `--`.
read_options() {
  local known=" $1 " option name
  shift
  EXTRA=() COMMAND=() DRY_RUN=
  while (($#)); do
    option=$1 name=${1%%=*}
    name=${name#--}
    shift
    case $option in
      --) COMMAND=("$@") && break ;;
      -h | --help) usage && exit ;;
      --dry-run) DRY_RUN=1 && continue ;;
      --*) ;;
      *) die "$option is not an option; see --help." ;;
    esac
    if [[ $known != *" $name "* ]]; then
      EXTRA+=("$option")
      continue
    fi
    if [[ $option != *=* ]]; then
      (($#)) || die "$option needs a value; see --help."
      option+="=$1"
      shift
    fi
    name=${name//-/_}
    printf -v "${name^^}" %s "${option#*=}"
  done
}

# Dies unless the options of a list, `require "name zone"`, have values.
require() {
  local name variable
  for name in $1; do
    variable=${name//-/_}
    variable=${variable^^}
    [[ ${!variable:-} ]] || die "--$name is missing; see --help."
  done
}

# Dies unless the command is one of mmdcodec, perhaps after NAME=VALUE words.
require_command() {
  local word
  for word in "${COMMAND[@]}"; do
    [[ $word =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || break
  done
  [[ ${word:-} == mmdcodec ]] ||
    die "the command is missing; give it last, as in: -- mmdcodec train" \
      "--config=codec_small --workdir=runs/small."
}

require_count() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^[0-9]+$ ]] ||
      die "--${name,,} is '${!name}'; expected a number."
  done
}

# Whether to start a run again that ended with this code: after 75 always, after
# a failure as often as --restarts allows.
FAILURES=0
again() {
  if (($1 == AGAIN)); then
    say "the run has stopped and goes on in $PAUSE s."
  elif (($1 != 0 && FAILURES < RESTARTS)); then
    ((FAILURES += 1))
    say "the run failed with exit code $1; restart $FAILURES of $RESTARTS in" \
      "$PAUSE s."
  else
    return 1
  fi
  sleep "$PAUSE"
}

# Says in one sentence how a run ended.
ended() {
  if (($1 == 0)); then
    say "the run is done."
  else
    say "the run failed with exit code $1; its last lines of output say why."
  fi
}

# Prints the exit code of a run, given those of its processes: that of the first
# that failed, otherwise 75 if one is to start again. When one fails, the others
# end with 75, which must not hide the failure.
combine() {
  local code result=0
  for code in "$@"; do
    if ((code != 0 && code != AGAIN)); then
      result=$code
      break
    fi
    ((code == 0)) || result=$AGAIN
  done
  echo "$result"
}

# Reads the name of a slice, as for `mmdcodec compile --topology`: SLICES, KIND,
# SIDES and CHIPS, HOSTS with CHIPS_PER_HOST each, and its names elsewhere.
read_slice() {
  [[ $1 =~ ^(([1-9][0-9]*)x)?(v4|v5e|v5p|v6e):([0-9]+(x[0-9]+){1,2})$ ]] ||
    die "'$1' is not a slice; expected a name such as v5e:4x4, v5p:2x2x4 or" \
      "2xv5e:4x4 (kinds: v4, v5e, v5p, v6e)."
  SLICES=${BASH_REMATCH[2]:-1}
  KIND=${BASH_REMATCH[3]} SIDES=${BASH_REMATCH[4]}
  CHIPS=$((${SIDES//x/*}))
  case $KIND in
    # v4 and v5p are counted in cores, of which a chip has two.
    v4)
      ACCELERATOR=v4-$((2 * CHIPS)) RUNTIME=tpu-ubuntu2204-base
      GKE_ACCELERATOR=tpu-v4-podslice
      ;;
    v5e)
      ACCELERATOR=v5litepod-$CHIPS RUNTIME=v2-alpha-tpuv5-lite
      GKE_ACCELERATOR=tpu-v5-lite-podslice
      ;;
    v5p)
      ACCELERATOR=v5p-$((2 * CHIPS)) RUNTIME=v2-alpha-tpuv5
      GKE_ACCELERATOR=tpu-v5p-slice
      ;;
    v6e)
      ACCELERATOR=v6e-$CHIPS RUNTIME=v2-alpha-tpuv6e
      GKE_ACCELERATOR=tpu-v6e-slice
      ;;
  esac
  # Slices of v5e and v6e of up to 8 chips are one machine.
  CHIPS_PER_HOST=4
  if [[ $KIND == v5e || $KIND == v6e ]] && ((CHIPS <= 8)); then
    CHIPS_PER_HOST=$CHIPS
  fi
  HOSTS=$((CHIPS / CHIPS_PER_HOST))
  ((HOSTS > 0 && HOSTS * CHIPS_PER_HOST == CHIPS)) ||
    die "$1 has $CHIPS chips; a slice of this kind is made of hosts with" \
      "$CHIPS_PER_HOST."
}

# Sets STEP, the command of a SLURM job that runs one process in each task.
job_step() {
  # From 22.05 on, srun does not take the CPUs of a task from sbatch.
  STEP=(srun --gpu-bind=none --kill-on-bad-exit=0
    ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"}
    "$LAUNCH/slurm_task.sh" "${COMMAND[@]}")
}

# Prints the commit of these sources, as mmdcodec records that of a checkout,
# for hosts to which they go without it; nothing if it is not known.
source_commit() {
  local head
  [[ -e $ROOT/.git ]] || return 0
  head=$(git -C "$ROOT" rev-parse HEAD) || return 0
  if [[ $(git -C "$ROOT" status --porcelain --untracked-files=no) ]]; then
    head+=' with changes'
  fi
  echo "$head"
}

# Prints a file with values in place of ${NAME}: render FILE NAME=VALUE ...
render() {
  local text pair name
  text=$(<"$1")
  shift
  for pair in "$@"; do
    name="\${${pair%%=*}}"
    text=${text//"$name"/"${pair#*=}"}
  done
  echo "$text"
}

# Prints words as a JSON list, which YAML reads too, for Kubernetes, which would
# replace $(NAME).
json_list() {
  local word list=''
  for word in "$@"; do
    [[ $word != *[[:cntrl:]]* ]] ||
      die "$(quoted "$word") has a control character, which YAML cannot hold."
    word=${word//"\\"/"\\\\"}
    word=${word//"\$("/"\$\$("}
    list+=", \"${word//'"'/'\"'}\""
  done
  echo "[${list:2}]"
}
