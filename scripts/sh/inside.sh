#!/usr/bin/env bash
# Runs the command of a session's record, and writes its process id and its exit code to the record.
# Only launch.sh calls it: scripts/sh/inside.sh RECORD
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
source scripts/sh/session_records.sh

# The task must receive HUP and Ctrl-C exactly once, since a second signal makes it exit without a checkpoint. When a
# session is closed, HUP goes to its first process, and the kernel sends HUP to the foreground group after that process
# has died. So the first process is this shell, which dies at once, and the task runs in the foreground below it.
if [[ ${2:-} != task ]]; then
    set -m
    bash scripts/sh/inside.sh "$1" task
    exit
fi

record=$1
command=()
while IFS= read -r -d '' word; do command+=("$word"); done <"$record/argv"
# nohup writes the log itself. In a session, tee does. So the task writes to no terminal, and the log has plain lines.
tee=
if [[ $(get "$record" with) != nohup ]]; then
    exec > >(trap '' INT HUP TERM && exec tee -a "$record.log") 2>&1
    tee=${!:-}
fi
id=${record##*/}
[[ $(get "$record" with) != screen ]] || id=${STY:-$id}
put "$record" id "$id"

# This shell survives signals, so that it can write the exit code. It sets a trap because the task would inherit an
# ignored signal, but does not inherit a trap.
trap : INT TERM HUP

# shellcheck disable=SC2016  # the inner shell expands the variables; its process becomes the task
bash -c 'echo $$ >"$1/pid.new" && mv -f "$1/pid.new" "$1/pid" && shift && exec "$@"' _ "$record" "${command[@]}"
code=$?
if [[ -n $tee ]]; then
    exec >/dev/null 2>&1 # tee ends, unless a process that outlives the task writes to it; wait at most 2 to 3 s
    start=$SECONDS
    while ((SECONDS - start < 3)) && kill -0 "$tee" 2>/dev/null; do sleep 0.02; done
fi
put "$record" exit "$code" # at the end, so that the log is complete
exit "$code"
