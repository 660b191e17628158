# shellcheck shell=bash
# Functions that the other scripts of this folder share. This file is sourced, never run. A session NAME has these files
# in ${EXPERIMENTS_DIR:-experiments}/.launch:
#   NAME.log          output of the task; the run folder links it as console.log
#   NAME.monitor.csv  measurements of the monitor
#   NAME/             record, one file per field: argv (the command, NUL-separated), `with` (screen, tmux or nohup),
#                     host; then id and monitor_id (the ids that screen or tmux gave), pid, folder (the run folder,
#                     once it exists) and exit (the exit code)

# The tasks that run on several processes. All other tasks run on one.
parallel_tasks='distill evaluate generate train_ddpm train_flow train_latent train_vae'

die() { # CODE MESSAGE
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

# Refuses a variable that is set but is not a whole number.
check_number() { # VARIABLE WHAT
    [[ ${!1:-0} =~ ^(0|[1-9][0-9]{0,5})$ ]] || die 2 "$1=${!1}: must be a number of $2"
}

# Every scripts/*.py except __init__.py is a task.
check_task() { # TASK
    local path tasks=''
    [[ $1 =~ ^[a-z][a-z0-9_]*$ && -f scripts/$1.py ]] && return
    for path in scripts/[a-z]*.py; do
        path=${path##*/}
        tasks+=" ${path%.py}"
    done
    die 2 "no task is called '$1': choose from$tasks"
}

is_parallel() { # TASK
    [[ " $parallel_tasks " == *" $1 "* ]]
}

# Expands ~ or ~USER at the start of a variable's value. Make does not expand it, nor does a shell inside quotes.
expand_home() { # VARIABLE
    local home value=${!1:-} pattern='^(~([[:alpha:]_][[:alnum:]._-]*)?)(/.*)?$'
    [[ $value =~ $pattern ]] || return 0
    eval "home=${BASH_REMATCH[1]}" # safe: the pattern allows only ~ and the characters of a name
    printf -v "$1" '%s%s' "$home" "${BASH_REMATCH[3]-}"
}
expand_home EXPERIMENTS_DIR
expand_home PYTHON
python=${PYTHON:-.venv/bin/python} # the interpreter of all tasks
node=$(uname -n)

need_environment() {
    command -v "$python" >/dev/null && return
    [[ $python == .venv/bin/python ]] || die 2 "PYTHON=$python: there is no such program"
    die 2 "there is no environment in .venv: run 'make setup'"
}

launch_folder() {
    local folder=${EXPERIMENTS_DIR:-experiments}/.launch
    case $folder in
        /*) printf '%s\n' "$folder" ;;
        *) printf '%s/%s\n' "$PWD" "$folder" ;;
    esac
}

# Writes a field by renaming, so that readers see the old value or the new one.
put() { # RECORD FIELD VALUE
    printf '%s\n' "$3" >"$1/$2.new" && mv -f "$1/$2.new" "$1/$2"
}

# Prints a field, or nothing if it is not known yet.
get() { # RECORD FIELD
    [[ ! -r $1/$2 ]] || cat "$1/$2"
}

# Succeeds if the record is of this machine. The launcher polls this function and the next two. On Linux they use no
# command substitution, because bash can fail to parse one when Ctrl-C comes.
is_here() { # RECORD
    local host
    { read -r host <"$1/host"; } 2>/dev/null && [[ $host == "$node" ]]
}

# Succeeds while the task of the record runs. The process id alone does not show that: after the task has ended, the
# system may give the id to another process, which must not be interrupted.
task_lives() { # RECORD
    local pid
    [[ ! -e $1/exit ]] && is_here "$1" && { read -r pid <"$1/pid"; } 2>/dev/null || return 1
    [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null || return 1
    if [[ -d /proc/self ]]; then
        grep -zqxF "LAUNCH_SESSION=${1##*/}" "/proc/$pid/environ" 2>/dev/null
    else
        [[ $(ps -p "$pid" -o args=) == *'-m scripts.'* ]]
    fi
}

# Succeeds if the task is known to have ended. This is unknown before the task has a process, and on another machine.
has_ended() { # RECORD
    [[ -e $1/exit ]] && return
    [[ -e $1/pid ]] && is_here "$1" && ! task_lives "$1"
}

# Waits up to 10 s for the exit code. inside.sh writes it up to 3 s after the task has ended. If inside.sh was
# killed too, no exit code is written.
await_exit() { # RECORD
    local tick
    for ((tick = 0; tick < 200; tick++)); do
        [[ ! -e $1/exit ]] || return 0
        sleep 0.05
    done
}

# Deletes the record of a session and its logs. A run folder keeps its own link to them.
forget_session() { # RECORD
    rm -rf "$1" "$1.log" "$1.monitor.csv"
}

how_to_attach() { # RECORD ID
    case $(get "$1" with) in
        screen) printf 'screen -x %s\n' "$2" ;;
        tmux) printf 'tmux -L %s attach\n' "$2" ;;
    esac
}
