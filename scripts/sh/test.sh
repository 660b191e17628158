#!/usr/bin/env bash
# Runs the tests. Without arguments, it leaves out tests marked `slow`, which start real sessions and processes.
#
#   scripts/sh/test.sh [ARGUMENT ...]   arguments of pytest: paths, -k WORDS, ...
#   scripts/sh/test.sh --all            all tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/sh/session_records.sh

if (($# == 0)); then
    "$python" -m pytest -m 'not slow'
    printf '%s\n' "The slow tests were left out: make test ARGS=--all runs them too." >&2
elif [[ $1 == --all ]]; then
    exec "$python" -m pytest "${@:2}"
else
    exec "$python" -m pytest "$@"
fi
