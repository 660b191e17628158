#!/usr/bin/env bash
# Creates the virtual environment .venv with the packages of requirements-dev.txt, and names missing system packages.
# The file .venv/installed is written last and records the Python version and the requirements. While it is up to date,
# nothing is installed.
#
#   scripts/sh/setup.sh [--quiet]           --quiet: print nothing if .venv is up to date
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=.venv/bin/python
stamp=.venv/installed

say() { printf '%s\n' "$*" >&2; }
die() {
    say "error: $1"
    exit 1
}

# Succeeds if .venv has Python 3.11 or newer.
has_python() { "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Prints the stamp of an up-to-date environment.
expected_stamp() {
    "$python" -I -c '
import hashlib, sys
content = b"".join(open(name, "rb").read() for name in ("requirements.txt", "requirements-dev.txt"))
print("Python", sys.version.split()[0], hashlib.sha256(content).hexdigest())'
}

is_current() {
    [[ -r $stamp ]] && has_python && [[ $(<"$stamp") == "$(expected_stamp)" ]]
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
            screen) say "screen is missing, so sessions use tmux or nohup: $install screen" ;;
            shellcheck) say "shellcheck is missing, which 'make lint' needs: $install shellcheck" ;;
        esac
    done
}

# Prints the command of a Python that can create the environment. The tested version comes first, the newest last.
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
    [[ -z $bare ]] || die "$bare has no modules venv and ensurepip: install them, for example 'apt-get install $bare-venv'"
    die "no Python >= 3.11 on PATH: install one, for example 'apt-get install python3.11 python3.11-venv'"
}

make_environment() {
    local base
    base=$(find_python)
    if [[ -d .venv && ! -e .venv/pyvenv.cfg && -n $(ls -A .venv) ]]; then
        die "$PWD/.venv is not a virtual environment: move it elsewhere"
    fi
    say "creating .venv with $("$base" --version)"
    "$base" -m venv --clear .venv >&2 || die "$base could not create .venv (see above)"
}

install_packages() {
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m ensurepip >&2 || die ".venv has no pip, and ensurepip failed: delete .venv and try again"
    fi
    if ! "$python" -m uv --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet uv >&2 || say "uv could not be installed: using pip, which is slower"
    fi
    if "$python" -m uv --version >/dev/null 2>&1; then
        if "$python" -m uv pip install --python "$python" -r requirements-dev.txt >&2; then return; fi
        say "uv failed: using pip"
    fi
    "$python" -m pip install -r requirements-dev.txt >&2 ||
        die "the packages of requirements-dev.txt could not be installed (see above)"
}

# Imports the large packages once, so that the next start finds their bytecode. Many containers set
# PYTHONDONTWRITEBYTECODE: there every start would compile torch again, for about three seconds.
write_bytecode() {
    env -u PYTHONDONTWRITEBYTECODE "$python" -c 'import torch, torchvision, torch.utils.tensorboard, matplotlib.pyplot' \
        >/dev/null 2>&1 || true # an import that fails is reported by the task that needs the package
}

if ! is_current; then
    # Of two simultaneous calls, the second waits here and then finds .venv up to date.
    exec 9<requirements-dev.txt
    if command -v flock >/dev/null; then flock 9; fi
    if ! is_current; then
        say "installing packages into .venv; this takes a few minutes"
        has_python || make_environment
        rm -f "$stamp"
        install_packages
        write_bytecode
        expected_stamp >"$stamp.new"
        mv -f "$stamp.new" "$stamp"
        name_missing_tools
    fi
    exec 9<&-
elif [[ ${1:-} != --quiet ]]; then
    name_missing_tools
fi
[[ ${1:-} == --quiet ]] || say "ready: .venv, $(cut -d ' ' -f 1,2 "$stamp")"
