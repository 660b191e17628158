#!/usr/bin/env bash
# Starts a task in a detached session, with a log file and a monitor session.
#
#   scripts/sh/launch.sh TASK [FLAGS...]
#                       TASK is a file scripts/TASK.py; FLAGS are its flags
#
#   FOREGROUND=1        run the task in this terminal; so do --help and --show
#   GPUS                number of GPUs, one process each; 0 for the CPU
#                       (default: one GPU, or the CPU if there is none)
#   PROCS               number of processes on the CPU; needs GPUS=0 (default 1)
#   EXPERIMENTS_DIR     folder of run folders and logs (default: experiments)
#   LAUNCH_WITH         screen, tmux or nohup (default: the first installed)
#   LAUNCH_WAIT         longest wait in seconds (default 300)
#   PYTHON              interpreter of an existing environment
#                       (default: .venv/bin/python)
#
# Waits until the task has made its run folder or has ended. Ctrl-C ends the
# wait, not the task. Prints the name of the session. If the task ends during
# the wait, its exit code is returned.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
source scripts/sh/session_records.sh

say() { printf '%s\n' "$*" >&2; }

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' scripts/sh/launch.sh >&2; }

# Sets `processes`. GPUS=0 hides the GPUs.
choose_processes() {
    check_number GPUS 'GPUs, or 0 for the CPU'
    [[ ${PROCS:-1} =~ ^[1-9][0-9]{0,2}$ ]] || die 2 "PROCS=$PROCS: must be a number of processes, at least 1"
    processes=${PROCS:-1}
    if ((${GPUS:-0} > 0)); then
        [[ -z ${PROCS:-} ]] || die 2 "PROCS=$PROCS needs GPUS=0: every GPU has one process"
        processes=$GPUS
    elif [[ -n ${GPUS:-} ]]; then
        export CUDA_VISIBLE_DEVICES=
    elif ((processes > 1)); then
        die 2 "PROCS=$PROCS needs GPUS=0"
    fi
    ((processes == 1)) || is_parallel "$task" ||
        die 2 "$task runs on one process, not on $processes: leave out GPUS and PROCS"
}

choose_with() {
    local kind
    case ${LAUNCH_WITH:-} in
        '')
            for kind in screen tmux nohup; do
                if command -v "$kind" >/dev/null; then break; fi
            done
            [[ $kind == screen ]] || say "screen is not installed ('make setup' names the package): using $kind"
            ;;
        screen | tmux | nohup)
            kind=$LAUNCH_WITH
            command -v "$kind" >/dev/null || die 2 "LAUNCH_WITH=$kind: $kind is not installed"
            ;;
        *) die 2 "LAUNCH_WITH=$LAUNCH_WITH: choose screen, tmux or nohup" ;;
    esac
    with=$kind
}

# Sets `name` and `record`. mkdir reserves the name, so two simultaneous starts get different names.
reserve_name() { # TASK
    local stem count=1
    stem=$1-$(date +%Y%m%d_%H%M%S)
    name=$stem
    mkdir -p "$launch" 2>/dev/null || die 2 "cannot write to $launch: choose another folder with EXPERIMENTS_DIR"
    until mkdir "$launch/$name" 2>/dev/null; do
        ((++count <= 1000)) || die 2 "cannot write to $launch: choose another folder with EXPERIMENTS_DIR"
        name=$stem-$count
    done
    record=$launch/$name
}

# This configuration replaces the user's. Otherwise a .screenrc could change the keys or open more windows.
# The path is relative because screen expands % and $ in it.
start_screen() { # SESSION COMMAND...
    printf '%s\n' 'startup_message off' 'defscrollback 10000' >"$record/screenrc"
    (cd "$launch" && exec screen -U -c "$name/screenrc" -dmS "$@" >&2)
}

# A server of its own gives the task this shell's environment, and keeps the user's tmux sessions apart.
start_tmux() { # SESSION COMMAND...
    tmux -u -L "$1" -f /dev/null new-session -d -s "$@" >&2
}

start_nohup() { # SESSION COMMAND...
    local log=/dev/null
    [[ $1 != "$name" ]] || log=$launch/$name.log
    shift
    set -m # without job control, bash makes background commands ignore INT
    nohup "$@" </dev/null >>"$log" 2>&1 &
    set +m
}

# Sets `waited`. Waits until the task has ended, its run folder has existed for a second, LAUNCH_WAIT seconds have
# passed, or Ctrl-C has come.
await_task() {
    local start=$SECONDS told=0 last
    waited=0
    while ((waited < ${LAUNCH_WAIT:-300})) || [[ ! -e $record/pid ]]; do
        if has_ended "$record" || [[ -e $record/folder ]]; then break; fi
        if $interrupted && [[ -e $record/pid ]]; then break; fi # without a process, nothing could be reported or stopped
        [[ -e $record/pid ]] || ((waited < 30)) || break # the session has not started
        sleep 0.05 || true # Ctrl-C also ends sleep
        waited=$((SECONDS - start))
        if ((waited >= 2 && told == 0)); then
            say "waiting until $task has made its run folder or ended (Ctrl-C ends the wait, not the task)"
            told=$waited
        elif ((waited >= told + 10 && told > 0)); then
            last=$(tail -n 1 "$log" | tr '\r' '\n' | tail -n 1)
            say "  still waiting after ${waited} s${last:+: $last}"
            told=$waited
        fi
    done
    [[ ! -e $record/folder ]] || sleep 1 || true # an error in the first second is reported, too
}

no_session() {
    put "$record" exit 1
    die 1 "$with could not start a session: try LAUNCH_WITH=nohup or FOREGROUND=1"
}

report_end() {
    local code
    code=$(get "$record" exit)
    if ((code == 2)) && [[ ! -e $record/folder ]] && (($(wc -l <"$log") <= 20)); then
        # A mistake in the command. The log is the error message: print it as in a terminal, and delete the record.
        tr -d '\r' <"$log" >&2
        forget_session "$record"
        return 2
    fi
    if ((code == 0)); then
        say "$task has finished; the last lines of ${log#"$root"/}:"
    else
        say "error: $task ended with exit code $code; the last lines of ${log#"$root"/}:"
    fi
    tail -n 20 "$log" | tr -d '\r' | sed 's/^/  /' >&2
    return "$code"
}

report_start() {
    local id monitor_id keys
    id=$(get "$record" id)
    monitor_id=$(get "$record" monitor_id)
    if [[ -e $record/folder ]]; then
        say "$task runs in a detached session ($with). A monitor runs until the task ends."
        say "  run      $(get "$record" folder)"
    else
        say "the wait has ended after $waited s: $task has neither ended nor made a run folder, and goes on ($with)"
    fi
    if [[ $with == screen ]]; then keys='Ctrl-a d'; else keys='Ctrl-b d'; fi
    [[ $with == nohup ]] || say "  attach   $(how_to_attach "$record" "$id")   (leave with $keys)"
    say "  follow   tail -f $(printf %q "${log#"$root"/}")"
    [[ $with == nohup || -z $monitor_id ]] || say "  monitor  $(how_to_attach "$record" "$monitor_id")"
    say "  csv      ${LAUNCH_MONITOR#"$root"/}"
    say "  stop     make stop ARGS=$name   (saves a checkpoint first)"
}

if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
    usage
    exit $(($# == 0 ? 2 : 0))
fi
task=$1
shift
check_task "$task"
need_environment
choose_processes
check_number LAUNCH_WAIT seconds
command=("$python" -m)
((processes == 1)) || command+=(models.distributed --nproc-per-node "$processes" -m)
command+=("scripts.$task" "$@")

if [[ $task == study && $# -eq 0 ]]; then FOREGROUND=1; fi # it lists the studies
for word in "$@"; do
    if [[ $word == --help || $word == -h || $word == --show ]]; then FOREGROUND=1; fi
done
if [[ ${FOREGROUND:-0} != 0 ]]; then
    unset LAUNCH_LOG LAUNCH_SESSION LAUNCH_MONITOR LAUNCH_RECORD
    exec "${command[@]}"
fi

choose_with
launch=$(launch_folder)
reserve_name "$task"
log=$launch/$name.log
export LAUNCH_LOG=$log LAUNCH_SESSION=$name LAUNCH_MONITOR=$launch/$name.monitor.csv LAUNCH_RECORD=$record
touch "$LAUNCH_LOG" "$LAUNCH_MONITOR" # the task links them, so they must exist before it starts
put "$record" with "$with"
put "$record" host "$node"
printf '%s\0' "${command[@]}" >"$record/argv"

interrupted=false
trap 'interrupted=true' INT # set already here, because starting the sessions can take a second
if ! "start_$with" "$name" bash "$root/scripts/sh/inside.sh" "$record"; then
    $interrupted || no_session
    forget_session "$record"
    exit 130
fi
"start_$with" "monitor-$name" bash "$root/scripts/sh/monitor.sh" "$record" || $interrupted ||
    say "$with could not start the monitor"
await_task
trap - INT
if task_lives "$record"; then
    report_start
else
    await_exit "$record"
    [[ -e $record/exit ]] || no_session
    report_end
fi
printf '%s\n' "$name"
! $interrupted || exit 130
