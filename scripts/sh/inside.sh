#!/usr/bin/env bash
# What runs inside a session: the command of the record, with its process id and its exit code written down.
# Called by launch.sh only: scripts/sh/inside.sh RECORD
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
source scripts/sh/session_records.sh

# Closing a session tells only its first process, and the kernel tells the rest of the foreground once that one is
# gone. So the first process is this shell, free to die, and the task is in the foreground below it: each HUP and each
# Ctrl-C reaches the task exactly once (a second one would mean "at once").
if [[ ${2:-} != task ]]; then
    set -m
    bash scripts/sh/inside.sh "$1" task
    exit
fi

record=$1
command=()
while IFS= read -r -d '' word; do command+=("$word"); done <"$record/argv"
# tmux keeps no log of its own that could be named safely, so a copy of the output goes there.
if [[ $(get "$record" with) == tmux ]]; then
    exec > >(trap '' INT HUP TERM && exec tee -a "$record.log") 2>&1
fi
put "$record" id "${STY:-${record##*/}}"

# The task decides what a signal means; this shell only has to outlive it to write the exit code. A trap, unlike an
# ignored signal, is not inherited.
trap : INT TERM HUP

# shellcheck disable=SC2016  # expanded by the inner shell, whose process becomes the task
bash -c 'echo $$ >"$1/pid.new" && mv -f "$1/pid.new" "$1/pid" && shift && exec "$@"' _ "$record" "${command[@]}"
code=$?
put "$record" exit "$code"
exit "$code"
