#!/usr/bin/env bash
# Starts a task in a detached session with its log on disk, and a second session that monitors it.
#
#   scripts/sh/launch.sh TASK [FLAGS...]     TASK is scripts/TASK.py; the flags reach it untouched
#
#   FOREGROUND=1        run here instead, without a session (so does --help)
#   GPUS                how many GPUs of this machine to use, a process each; 0 for the CPU (one, if there is one)
#   PROCS               with GPUS=0: how many processes (1)
#   EXPERIMENTS_DIR     where run folders and logs are kept (experiments)
#   LAUNCH_WITH         screen, tmux or nohup (the first that is installed)
#   LAUNCH_WAIT         seconds that a task has to show its run folder or fail (15)
#
# Standard output is one line, the name of the session. A task that fails while we wait passes its exit code on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
source scripts/sh/session_records.sh

say() { printf '%s\n' "$*" >&2; }

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' scripts/sh/launch.sh >&2; }

check_task() {
    local tasks
    tasks=$(tasks_with '__main__')
    [[ $1 =~ ^[a-z][a-z0-9_]*$ && " $tasks" == *" $1 "* ]] || die 2 "no task '$1' in scripts/; there are: ${tasks% }"
    need_environment
}

# Sets `processes`; GPUS=0 hides the GPUs.
choose_processes() {
    [[ ${GPUS:-0} =~ ^[0-9]{1,3}$ ]] || die 2 "GPUS=$GPUS: how many GPUs to use, 0 for the CPU"
    [[ ${PROCS:-1} =~ ^[1-9][0-9]{0,2}$ ]] || die 2 "PROCS=$PROCS: how many processes to start on the CPU"
    processes=${PROCS:-1}
    if ((${GPUS:-0} > 0)); then
        [[ -z ${PROCS:-} ]] || die 2 "PROCS=$PROCS goes with GPUS=0: on GPUs each has one process"
        processes=$GPUS
    elif [[ -n ${GPUS:-} ]]; then
        export CUDA_VISIBLE_DEVICES=
    elif ((processes > 1)); then
        die 2 "PROCS=$PROCS goes with GPUS=0"
    fi
}

choose_with() {
    local kind
    case ${LAUNCH_WITH:-} in
        '')
            for kind in screen tmux nohup; do
                if command -v "$kind" >/dev/null; then break; fi
            done
            [[ $kind == screen ]] || say "screen is not installed ('make setup' names the package): using $kind instead"
            ;;
        screen | tmux | nohup)
            kind=$LAUNCH_WITH
            command -v "$kind" >/dev/null || die 2 "LAUNCH_WITH=$kind, but $kind is not installed"
            ;;
        *) die 2 "LAUNCH_WITH=$LAUNCH_WITH: choose screen, tmux or nohup" ;;
    esac
    with=$kind
}

# Sets `name` and `record`; making the folder is what reserves the name, so two at once get two names.
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

# The configuration is ours and not the user's, so that the printed keys are true and no window but ours is opened.
# File names are relative because screen expands % and $ in them.
start_screen() { # SESSION COMMAND...
    local options=()
    [[ $1 != "$name" ]] || options=(-L)
    printf '%s\n' 'startup_message off' 'defscrollback 10000' "logfile $name.log" 'logfile flush 1' >"$record/screenrc"
    (cd "$launch" && exec screen -U -c "$name/screenrc" "${options[@]+"${options[@]}"}" -dmS "$@" >&2)
}

# A server of its own: the user's sessions stay apart, and the task gets this environment rather than the server's.
start_tmux() { # SESSION COMMAND...
    tmux -u -L "$1" -f /dev/null new-session -d -s "$@" >&2
}

start_nohup() { # SESSION COMMAND...
    local log=/dev/null
    [[ $1 != "$name" ]] || log=$launch/$name.log
    shift
    set -m # without job control the shell would make background commands deaf to INT
    nohup "$@" </dev/null >>"$log" 2>&1 &
    set +m
}

# The run folder is known once the task has linked its log there.
run_folder() {
    find -L "${EXPERIMENTS_DIR:-experiments}" -mindepth 2 -maxdepth 2 -name console.log \
        -samefile "$launch/$name.log" -print 2>/dev/null | sed 's|/console\.log$||; q'
}

# Returns once the task has ended, or a second after it has shown its run folder, or when time is up.
await_task() {
    local tick left
    left=$((${LAUNCH_WAIT:-15} * 5))
    folder=''
    for ((tick = 1; left > 0; tick++, left--)); do
        [[ ! -e $record/exit ]] || return 0
        if [[ -z $folder ]] && ((tick % 3 == 0)); then
            folder=$(run_folder)
            [[ -z $folder ]] || left=5
        fi
        sleep 0.2
    done
}

no_session() {
    put "$record" exit 1
    die 1 "$with could not start a session; LAUNCH_WITH=nohup may, and FOREGROUND=1 needs none"
}

report_end() {
    local code
    code=$(get "$record" exit)
    if [[ $with == screen ]]; then sleep 1.2; else sleep 0.2; fi # screen writes its log once a second
    if ((code == 0)); then
        say "$task has finished already; the last lines of ${log#"$root"/}:"
    else
        say "error: $task ended at once with exit code $code; the last lines of ${log#"$root"/}:"
    fi
    tail -n 20 "$log" | tr -d '\r' | sed 's/^/  /' >&2
    return "$code"
}

report_start() {
    local id monitor_id leave
    id=$(get "$record" id)
    monitor_id=$(get "$record" monitor_id)
    say "$task runs detached, with $with; a monitor runs beside it and ends with it."
    [[ -z $folder ]] || say "  run      $folder"
    if [[ $with == screen ]]; then leave='Ctrl-a d'; else leave='Ctrl-b d'; fi
    [[ $with == nohup ]] || say "  attach   $(how_to_attach "$record" "$id")   ($leave leaves)"
    say "  follow   tail -f $(printf %q "${log#"$root"/}")"
    [[ $with == nohup ]] || say "  monitor  $(how_to_attach "$record" "$monitor_id")"
    say "  figures  ${LAUNCH_MONITOR#"$root"/}"
    say "  stop     make stop ARGS=$name   (it saves a checkpoint first)"
}

if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
    usage
    exit $(($# == 0 ? 2 : 0))
fi
task=$1
shift
check_task "$task"
choose_processes
command=(.venv/bin/python -m)
((processes == 1)) || command+=(models.distributed --nproc-per-node "$processes" -m)
command+=("scripts.$task" "$@")

for word in "$@"; do
    if [[ $word == --help ]]; then FOREGROUND=1; fi # help is for the person who asked, not for a log
done
if [[ ${FOREGROUND:-0} != 0 ]]; then
    unset LAUNCH_LOG LAUNCH_SESSION LAUNCH_MONITOR
    exec "${command[@]}"
fi

choose_with
launch=$(launch_folder)
reserve_name "$task"
log=$launch/$name.log
export LAUNCH_LOG=$log LAUNCH_SESSION=$name LAUNCH_MONITOR=$launch/$name.monitor.csv
touch "$LAUNCH_LOG" "$LAUNCH_MONITOR" # they exist before the task does, so that it can link them
put "$record" with "$with"
put "$record" host "$(uname -n)"
printf '%s\0' "${command[@]}" >"$record/argv"

"start_$with" "$name" bash "$root/scripts/sh/inside.sh" "$record" || no_session
"start_$with" "monitor-$name" bash "$root/scripts/sh/monitor.sh" "$record" || say "$with could not start the monitor"
await_task
if task_lives "$record"; then
    report_start
else
    sleep 0.2 # its exit code is written right after its end
    [[ -e $record/exit ]] || no_session
    report_end
fi
printf '%s\n' "$name"
