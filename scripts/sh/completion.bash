# shellcheck shell=bash
# Completes make targets, tasks and flags in bash, in the folder of the repository. It is sourced, never run:
#
#   source scripts/sh/completion.bash
#
#   make gen<TAB>      make generate ARGS="--sam<TAB>      python -m scripts.gen<TAB>      python -m scripts.generate --sam<TAB>
declare -gA _task_flags # the flags of each task, read once per shell

# Fills _task_flags with the flags of a task, one a line.
_read_flags() { # TASK
    local python=${PYTHON:-.venv/bin/python}
    [[ -z ${_task_flags[$1]:-} ]] || return 0
    _task_flags[$1]=$("$python" -m "scripts.$1" --help 2>/dev/null | grep -oE -- '--[a-z][a-z0-9_.]*' | sort -u)
}

_task_names() {
    local path
    for path in scripts/[a-z]*.py; do
        path=${path##*/}
        printf '%s\n' "${path%.py}"
    done
}

# Prints the task that a make target starts.
_task_of_target() { # TARGET
    sed -n "/^$1:/,/^\$/s/.*\(launch\.sh\|-m\) \(scripts\.\)\?\([a-z_]*\).*/\3/p" Makefile 2>/dev/null | head -n 1
}

_complete_python() {
    local word=${COMP_WORDS[COMP_CWORD]} task=${COMP_WORDS[2]:-}
    COMPREPLY=()
    [[ ${COMP_WORDS[1]:-} == -m && -d scripts ]] || return 0
    if ((COMP_CWORD == 2)); then
        mapfile -t COMPREPLY < <(compgen -P scripts. -W "$(_task_names)" -- "${word#scripts.}")
    elif [[ $task == scripts.* && $word == -* ]]; then
        _read_flags "${task#scripts.}"
        mapfile -t COMPREPLY < <(compgen -W "${_task_flags[${task#scripts.}]}" -- "$word")
    fi
}

_complete_make() {
    local word=${COMP_WORDS[COMP_CWORD]} target=${COMP_WORDS[1]:-} task before=''
    COMPREPLY=()
    [[ -f Makefile && -d scripts ]] || return 0
    if ((COMP_CWORD == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "$(sed -n 's/^\([a-z_0-9]*\):[^#]*##.*/\1/p' Makefile)" -- "$word")
        return
    fi
    word=${word#ARGS=}
    word=${word#[\"\']}
    if [[ $word == *' '* ]]; then
        before="${word% *} "
        word=${word##* }
    fi
    task=$(_task_of_target "$target")
    if [[ $word == -* && -n $task ]]; then
        _read_flags "$task"
        mapfile -t COMPREPLY < <(compgen -P "$before" -W "${_task_flags[$task]}" -- "$word")
    fi
}

complete -o default -F _complete_make make
complete -o default -F _complete_python python python3 .venv/bin/python
