#!/usr/bin/env bash
# The sessions that launch.sh started and that still run; no other session is ever looked at.
#
#   scripts/sh/sessions.sh list             name, age and kind of each
#   scripts/sh/sessions.sh attach [NAME]    look at it live; NAME may be left out where there is only one
#   scripts/sh/sessions.sh monitor [NAME]   the same for the session that monitors it
#   scripts/sh/sessions.sh stop [NAME|--all]
#                                        interrupt the task, which saves a checkpoint, and wait until it has ended;
#                                        a second stop meanwhile ends it at once
#   scripts/sh/sessions.sh forget           delete the records and logs of ended sessions (run folders keep their copy)
#
#   EXPERIMENTS_DIR     where launch.sh kept them (experiments)
#   STOP_WAIT           seconds that stop waits (120)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
source scripts/sh/session_records.sh
launch=$(launch_folder)

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' scripts/sh/sessions.sh >&2; }

living() {
    local record
    for record in "$launch"/*/; do
        record=${record%/}
        if [[ -e $record/argv ]] && task_lives "$record"; then printf '%s\n' "${record##*/}"; fi
    done
}

age_of() { # FILE
    local seconds
    seconds=$(($(date +%s) - $(stat -c %Y "$1" 2>/dev/null || stat -f %m "$1")))
    if ((seconds < 120)); then
        printf '%ds' "$seconds"
    elif ((seconds < 7200)); then
        printf '%dm' $((seconds / 60))
    elif ((seconds < 172800)); then
        printf '%dh' $((seconds / 3600))
    else
        printf '%dd' $((seconds / 86400))
    fi
}

list() {
    local name names
    names=$(living)
    if [[ -z $names ]]; then
        echo "no session is running" >&2
        return
    fi
    printf '%-44s %6s  %s\n' SESSION AGE WITH
    while read -r name; do
        printf '%-44s %6s  %s\n' "$name" "$(age_of "$launch/$name/argv")" "$(get "$launch/$name" with)"
    done <<<"$names"
}

# Prints the session that is meant: the one named, or the only one.
pick() { # ACTION [NAME]
    local names
    names=$(living)
    if [[ -n ${2:-} ]]; then
        grep -Fxq -- "$2" <<<"$names" || die 2 "no running session '$2': scripts/sh/sessions.sh list shows them"
        printf '%s\n' "$2"
        return
    fi
    [[ -n $names ]] || die 2 "no session is running"
    if [[ $names == *$'\n'* ]]; then
        list >&2
        die 2 "several sessions are running: name one, as in make $1 ARGS=${names%%$'\n'*}"
    fi
    printf '%s\n' "$names"
}

attach() { # id|monitor_id NAME
    local record=$launch/$2 id log
    id=$(get "$record" "$1")
    case $(get "$record" with) in
        screen) exec screen -x "$id" ;;
        tmux) exec tmux -L "$id" attach ;;
    esac
    if [[ $1 == id ]]; then log=$record.log; else log=$record.monitor.csv; fi
    echo "started with nohup, so there is no terminal to attach to; following ${log#"$root"/} (Ctrl-C leaves it)" >&2
    exec tail -n 40 -f "$log"
}

stop() { # NAME
    local record=$launch/$1 tick
    kill -INT "$(get "$record" pid)"
    echo "asked $1 to stop; it saves a checkpoint first" >&2
    for ((tick = 0; tick < ${STOP_WAIT:-120} * 5; tick++)); do
        if ! task_lives "$record"; then
            sleep 0.3
            echo "$1 has ended, with exit code $(get "$record" exit)" >&2
            return
        fi
        sleep 0.2
    done
    die 1 "$1 still runs after ${STOP_WAIT:-120} s; 'make stop ARGS=$1' once more ends it at once"
}

stop_all() {
    local name names
    names=$(living)
    [[ -n $names ]] || die 2 "no session is running"
    while read -r name; do stop "$name"; done <<<"$names"
}

forget() {
    local record
    for record in "$launch"/*/; do
        record=${record%/}
        if has_ended "$record"; then rm -rf "$record" "$record.log" "$record.monitor.csv"; fi
    done
}

case ${1:-} in
    list) list ;;
    attach | monitor)
        name=$(pick "$1" "${2:-}")
        if [[ $1 == attach ]]; then attach id "$name"; else attach monitor_id "$name"; fi
        ;;
    stop)
        if [[ ${2:-} == --all ]]; then
            stop_all
        else
            name=$(pick stop "${2:-}")
            stop "$name"
        fi
        ;;
    forget) forget ;;
    -h | --help) usage ;;
    *)
        usage
        exit 2
        ;;
esac
