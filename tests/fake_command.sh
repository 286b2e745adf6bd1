#!/usr/bin/env bash
# What the fake commands of fake_cloud.py do: they record the call, answer it,
# and gcloud keeps the hosts of a slice, which are folders with a shell.

name=${0##*/}
printf -v line ' %q' "$name" "$@"
echo "${line:1}" >>"$CLOUD/calls"

[[ $name != kubectl || $line != *" apply "* ]] || cat >"$CLOUD/applied.yaml"
[[ $name != sky ]] || cp "${*: -1}" "$CLOUD/job.yaml"

for rule in "$CLOUD/answers/$name"/*; do
  [[ -f $rule ]] || continue
  mapfile -t answers <"$rule"
  [[ $line == *"${answers[0]}"* ]] || continue
  # The last answer repeats.
  ((${#answers[@]} == 2)) || sed -i 2d "$rule"
  case ${answers[1]} in
    "exit "*) exit "${answers[1]#exit }" ;;
    ERROR*) echo "${answers[1]}" >&2 && exit 1 ;;
    *) printf '%b\n' "${answers[1]}" ;;
  esac
  exit 0
done

[[ $name == gcloud ]] || exit 0
case $4 in
  create) mkdir "$CLOUD"/hosts/{0,1} ;;
  delete)
    for file in "$CLOUD"/hosts/*/mmdcodec/run.group; do
      [[ ! -f $file ]] || kill -TERM -- "-$(cut -d ' ' -f 1 "$file")" 2>/dev/null
    done
    rm -r "$CLOUD/hosts"
    mkdir "$CLOUD/hosts"
    ;;
  scp)
    for host in "$CLOUD"/hosts/*; do
      cp "$5" "$host/${6#*:}"
    done
    ;;
  ssh)
    for word in "$@"; do
      [[ $word != --command=* ]] || command=${word#--command=}
    done
    # As the real one, it loses the exit codes of the hosts.
    for host in "$CLOUD"/hosts/*; do
      (cd "$host" && HOME=$host bash -c "$command")
    done
    exit 0
    ;;
esac
