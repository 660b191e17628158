#!/usr/bin/env bash
# Makes the virtual environment in .venv with the packages of requirements-dev.txt, and names what the system lacks.
# A stamp inside .venv, written last, records what was installed: with nothing changed a second call only reads it.
#
#   scripts/sh/setup.sh [--quiet]           --quiet says nothing when there is nothing to do
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=.venv/bin/python
stamp=.venv/installed

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $1"
    exit 1
}

# True where .venv holds a Python that is new enough.
has_python() { "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# What the stamp says of an environment with everything installed.
wanted() {
    "$python" -I -c '
import hashlib, sys
content = b"".join(open(name, "rb").read() for name in ("requirements.txt", "requirements-dev.txt"))
print("Python", sys.version.split()[0], hashlib.sha256(content).hexdigest())'
}

is_current() {
    [[ -r $stamp ]] && has_python && [[ $(<"$stamp") == "$(wanted)" ]]
}

name_missing_tools() {
    local tool install='install it with your package manager'
    if command -v apt-get >/dev/null; then
        install='sudo apt-get install'
    elif command -v dnf >/dev/null; then
        install='sudo dnf install'
    elif command -v brew >/dev/null; then
        install='brew install'
    fi
    for tool in screen shellcheck; do
        if command -v "$tool" >/dev/null; then continue; fi
        case $tool in
            screen) say "screen is missing (runs will use tmux or nohup instead): $install screen" ;;
            shellcheck) say "shellcheck is missing (only 'make lint' needs it): $install shellcheck" ;;
        esac
    done
}

# Prints a Python that can make the environment. The tested version comes first, the newest last.
find_python() {
    local name bare=''
    for name in python3.11 python3.12 python3.13 python3 python python3.14; do
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
        bare=$name
    done
    [[ -z $bare ]] || die "$bare lacks the modules venv and ensurepip: install them, as in 'apt-get install $bare-venv'"
    die "no Python >= 3.11 on PATH: install one, as in 'apt-get install python3.11 python3.11-venv' or with pyenv or uv"
}

make_environment() {
    local base
    base=$(find_python)
    if [[ -d .venv && ! -e .venv/pyvenv.cfg && -n $(ls -A .venv) ]]; then
        die "$PWD/.venv is not a virtual environment: move it away"
    fi
    say "making .venv with $("$base" --version)"
    "$base" -m venv --clear .venv >&2 || die "$base could not make .venv (see above)"
}

install_packages() {
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m ensurepip >&2 || die "there is no pip in .venv, and ensurepip fails: delete .venv and try again"
    fi
    if ! "$python" -m uv --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet uv >&2 || say "uv could not be installed; using pip, which is slower"
    fi
    if "$python" -m uv --version >/dev/null 2>&1; then
        if "$python" -m uv pip install --python "$python" -r requirements-dev.txt >&2; then return; fi
        say "uv failed; trying pip"
    fi
    "$python" -m pip install -r requirements-dev.txt >&2 ||
        die "the packages of requirements-dev.txt could not be installed (see above)"
}

if ! is_current; then
    # Two targets at once on a fresh clone: the second waits for the first, and then finds its work done.
    exec 9<requirements-dev.txt
    if command -v flock >/dev/null; then flock 9; fi
    if ! is_current; then
        say "installing the packages into .venv; this takes some minutes once"
        has_python || make_environment
        rm -f "$stamp"
        install_packages
        wanted >"$stamp.new"
        mv -f "$stamp.new" "$stamp"
        name_missing_tools
    fi
    exec 9<&-
elif [[ ${1:-} != --quiet ]]; then
    name_missing_tools
fi
[[ ${1:-} == --quiet ]] || say "ready: .venv, $(cut -d ' ' -f 1,2 "$stamp")"
