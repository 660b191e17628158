#!/usr/bin/env bash
# Lists, shows and stops the sessions that launch.sh has started.
# Other sessions are never touched.
#
#   scripts/sh/sessions.sh list             list the running sessions
#   scripts/sh/sessions.sh attach [NAME]    attach to a session
#   scripts/sh/sessions.sh monitor [NAME]   attach to its monitor
#   scripts/sh/sessions.sh stop [NAME|--all]
#                       save a checkpoint, stop, and wait for the end;
#                       a second stop meanwhile ends the task at once
#   scripts/sh/sessions.sh forget           delete records and logs of ended
#                       sessions; run folders keep their own link to the log
#
# NAME may be omitted if only one session is running.
#
#   EXPERIMENTS_DIR     folder of run folders and logs (default: experiments)
#   STOP_WAIT           seconds to wait for the end (default 120)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
source scripts/sh/session_records.sh
launch=$(launch_folder)
check_number STOP_WAIT seconds

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

# Prints NAME, or the name of the only running session.
pick() { # ACTION [NAME]
    local names
    names=$(living)
    if [[ -n ${2:-} ]]; then
        grep -Fxq -- "$2" <<<"$names" || die 2 "no session '$2' is running: 'make sessions' lists them"
        printf '%s\n' "$2"
        return
    fi
    [[ -n $names ]] || die 2 "no session is running"
    if [[ $names == *$'\n'* ]]; then
        list >&2
        die 2 "several sessions are running: choose one, such as 'make $1 ARGS=${names%%$'\n'*}'"
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
    echo "a session of nohup has no terminal: following ${log#"$root"/} instead (leave with Ctrl-C)" >&2
    exec tail -n 40 -f "$log"
}

interrupt() { # NAME
    local record=$launch/$1
    task_lives "$record" && kill -INT "$(get "$record" pid)" || return 0 # it may have ended meanwhile
    echo "stopping $1; it saves a checkpoint first" >&2
}

# Returns 1 if the task of an interrupted session does not end in time.
await_stop() { # NAME
    local record=$launch/$1 tick
    for ((tick = 0; tick < ${STOP_WAIT:-120} * 5; tick++)); do
        if ! task_lives "$record"; then
            await_exit "$record"
            echo "$1 has ended with exit code $(get "$record" exit)" >&2
            return
        fi
        sleep 0.2
    done
    echo "error: $1 still runs after ${STOP_WAIT:-120} s: a second 'make stop ARGS=$1' ends it at once" >&2
    return 1
}

stop_all() {
    local name names code=0
    names=$(living)
    [[ -n $names ]] || die 2 "no session is running"
    while read -r name; do interrupt "$name"; done <<<"$names"
    while read -r name; do await_stop "$name" || code=1; done <<<"$names"
    exit "$code"
}

forget() {
    local record
    for record in "$launch"/*/; do
        record=${record%/}
        if has_ended "$record"; then forget_session "$record"; fi
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
            interrupt "$name"
            await_stop "$name"
        fi
        ;;
    forget) forget ;;
    -h | --help) usage ;;
    '')
        usage
        exit 2
        ;;
    *) die 2 "no action is called '$1': choose from list, attach, monitor, stop, forget" ;;
esac
