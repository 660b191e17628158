#!/usr/bin/env bash
# Creates the virtual environment .venv with the packages of requirements.txt, and names missing system packages.
# The file .venv/installed is written last and records the Python version and the requirements. While it is up to date,
# nothing is installed.
#
#   scripts/sh/setup.sh [--quiet] [--dev]   --quiet: print nothing if .venv is up to date
#                                           --dev: also install what tests and linters need, requirements-dev.txt
#
#   TORCH_BACKEND       build of torch that uv installs: cpu, cu128, auto, ... (see uv's --torch-backend)
#   PYTHON              interpreter of an existing environment. It is checked, and nothing is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/sh/session_records.sh
stamp=.venv/installed
quiet=false
files=(requirements.txt)
for word in "$@"; do
    case $word in
        --quiet) quiet=true ;;
        --dev) files=(requirements.txt requirements-dev.txt) ;;
        *) die 2 "setup.sh takes --quiet and --dev, not $word" ;;
    esac
done
requirements=${files[*]}
with_files=()
for name in "${files[@]}"; do with_files+=(-r "$name"); done

say() { printf '%s\n' "$*" >&2; }

# Succeeds if the interpreter is Python 3.11 or newer.
has_python() { "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Prints the stamp of an up-to-date environment.
expected_stamp() {
    "$python" -I -c '
import hashlib, sys
print("Python", sys.version.split()[0])
for name in sys.argv[1:]:
    print(name, hashlib.sha256(open(name, "rb").read()).hexdigest())' "${files[@]}"
}

# Succeeds if .venv has the requested packages, or more.
is_current() {
    [[ -r $stamp ]] && has_python && [[ $(<"$stamp") == "$(expected_stamp)"* ]]
}

# Checks the user's own environment, which is never changed.
check_environment() {
    local missing
    need_environment
    has_python || die 2 "PYTHON=$PYTHON: is not Python 3.11 or newer"
    missing=$("$python" -I -c '
import re, sys
from importlib import metadata
def numbers(version):
    return [int(part) for part in re.match(r"[\d.]*\d", version)[0].split(".")]
lines = [line.split("#")[0].strip() for name in sys.argv[1:] for line in open(name)]
for name, bound in (line.split(">=") for line in lines if ">=" in line):
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        print(name)
    else:
        if numbers(installed) < numbers(bound):
            print(f"{name}>={bound} (has {installed})")' "${files[@]}")
    [[ -z $missing ]] || die 2 "PYTHON=$PYTHON lacks ${missing//$'\n'/, }: type \
$(printf %q "$python") -m pip install ${with_files[*]}, or leave PYTHON out to use .venv"
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
    [[ -z $bare ]] || die 1 "$bare has no modules venv and ensurepip: install them, for example 'apt-get install $bare-venv'"
    die 1 "no Python >= 3.11 on PATH: install one, for example 'apt-get install python3.11 python3.11-venv'"
}

make_environment() {
    local base
    base=$(find_python)
    if [[ -d .venv && ! -e .venv/pyvenv.cfg && -n $(ls -A .venv) ]]; then
        die 1 "$PWD/.venv is not a virtual environment: move it elsewhere"
    fi
    say "creating .venv with $("$base" --version)"
    "$base" -m venv --clear .venv >&2 || die 1 "$base could not create .venv (see above)"
}

install_packages() {
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m ensurepip >&2 || die 1 ".venv has no pip, and ensurepip failed: delete .venv and try again"
    fi
    if ! "$python" -m uv --version >/dev/null 2>&1; then
        "$python" -m pip install --quiet uv >&2 || say "uv could not be installed: using pip, which is slower"
    fi
    if "$python" -m uv --version >/dev/null 2>&1; then
        if "$python" -m uv pip install --python "$python" ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"} \
            "${with_files[@]}" >&2; then return; fi
        [[ -n ${TORCH_BACKEND:-} ]] || say "uv failed: using pip"
    fi
    [[ -z ${TORCH_BACKEND:-} ]] ||
        die 1 "TORCH_BACKEND=$TORCH_BACKEND: uv could not install $requirements (see above), and pip has no such option"
    "$python" -m pip install "${with_files[@]}" >&2 ||
        die 1 "the packages of $requirements could not be installed (see above)"
}

# Imports the large packages once, so that the next start finds their bytecode. Many containers set
# PYTHONDONTWRITEBYTECODE: there every start would compile torch again, for about three seconds.
write_bytecode() {
    env -u PYTHONDONTWRITEBYTECODE "$python" -c 'import torch, torchvision, torch.utils.tensorboard, matplotlib.pyplot' \
        >/dev/null 2>&1 || true # an import that fails is reported by the task that needs the package
}

if [[ $python != .venv/bin/python ]]; then
    check_environment
    $quiet || say "ready: $python, $("$python" --version)${TORCH_BACKEND:+. TORCH_BACKEND has no effect on it}"
    exit
fi
if ! is_current; then
    # If two calls run at once, the second waits here and then finds .venv up to date.
    exec 9<requirements.txt
    if command -v flock >/dev/null; then flock 9; fi
    if ! is_current; then
        say "installing the packages of $requirements into .venv; this takes a few minutes"
        has_python || make_environment
        rm -f "$stamp"
        install_packages
        write_bytecode
        expected_stamp >"$stamp.new"
        mv -f "$stamp.new" "$stamp"
        name_missing_tools
    fi
    exec 9<&-
elif ! $quiet; then
    name_missing_tools
    [[ -z ${TORCH_BACKEND:-} ]] || say "TORCH_BACKEND changes nothing in a complete .venv: delete .venv to install torch anew"
fi
$quiet || say "ready: .venv, $(head -n 1 "$stamp")"
