# shellcheck shell=bash
# What launch.sh, inside.sh, monitor.sh and sessions.sh agree on; sourced by them, never run. A session NAME leaves in
# ${EXPERIMENTS_DIR:-experiments}/.launch:
#   NAME.log          everything that the task wrote (the run folder links it as console.log)
#   NAME.monitor.csv  what the monitor measured
#   NAME/             its record: argv (NUL-separated), with and host; id, monitor_id, pid and exit once they are known

die() { # CODE MESSAGE
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

tasks_with() { # PATTERN: the files scripts/*.py that hold it, by their tasks' names, each with a blank after it
    grep -l -- "$1" scripts/*.py 2>/dev/null | sed 's|.*/||; s|\.py$||' | tr '\n' ' ' || true
}

need_environment() {
    [[ -x .venv/bin/python ]] || die 2 "no environment in .venv: run 'make setup' first"
}

launch_folder() {
    local folder=${EXPERIMENTS_DIR:-experiments}/.launch
    case $folder in
        /*) printf '%s\n' "$folder" ;;
        *) printf '%s/%s\n' "$PWD" "$folder" ;;
    esac
}

put() { # RECORD FIELD VALUE: readers see the old value or the new one, never half of it
    printf '%s\n' "$3" >"$1/$2.new" && mv -f "$1/$2.new" "$1/$2"
}

get() { # RECORD FIELD: empty where unknown
    [[ ! -r $1/$2 ]] || cat "$1/$2"
}

# True while the process of the record is the one that the session started: a process id alone may have passed on to
# a stranger, whom `stop` must not interrupt.
task_lives() { # RECORD
    local pid
    [[ ! -e $1/exit && $(get "$1" host) == "$(uname -n)" ]] || return 1
    pid=$(get "$1" pid)
    [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null || return 1
    if [[ -d /proc/self ]]; then
        grep -zqxF "LAUNCH_SESSION=${1##*/}" "/proc/$pid/environ" 2>/dev/null
    else
        [[ $(ps -p "$pid" -o args=) == *'-m scripts.'* ]]
    fi
}

# False while it cannot be known: before the task's process exists, or on another machine.
has_ended() { # RECORD
    [[ -e $1/exit ]] && return
    [[ -e $1/pid && $(get "$1" host) == "$(uname -n)" ]] && ! task_lives "$1"
}

how_to_attach() { # RECORD ID
    case $(get "$1" with) in
        screen) printf 'screen -x %s\n' "$2" ;;
        tmux) printf 'tmux -L %s attach\n' "$2" ;;
    esac
}
