#!/usr/bin/env bash
# Shows the runs in TensorBoard, until Ctrl-C. On a server, forward the port: ssh -L 6006:localhost:6006 SERVER
#
#   scripts/sh/tensorboard.sh [FLAGS...]
#                       FLAGS are TensorBoard's, such as --port 6007 or
#                       --logdir experiments/RUN for a single run
#
#   EXPERIMENTS_DIR     folder of run folders (default: experiments)
#   PYTHON              interpreter of an existing environment
#                       (default: .venv/bin/python)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/sh/session_records.sh

usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' scripts/sh/tensorboard.sh >&2; }

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    usage
    exit
fi
need_environment
runs=${EXPERIMENTS_DIR:-experiments}
if [[ " $* " != *' --logdir'* && -z $(find -L "$runs" -mindepth 2 -maxdepth 2 -name tensorboard -print -quit 2>/dev/null) ]]; then
    die 2 "no run in $runs has TensorBoard files: train one, or choose another folder with EXPERIMENTS_DIR"
fi

# TensorBoard answers a wrong flag with its whole usage, of which only the last line says what is wrong. It also warns
# that TensorFlow is missing, but TensorFlow is not needed here.
without_usage() {
    local error='s/^tensorboard: error: \(.*\)/error: TensorBoard: \1; its flags: make tensorboard ARGS=--helpfull/'
    trap '' INT # TensorBoard still writes after Ctrl-C
    exec sed -u -e '/^TensorFlow installation not found/d' -e '/^usage: /,/: error: /{/: error: /!d;}' -e "$error"
}
exec 2> >(without_usage >&2)
exec "$python" -m tensorboard.main --logdir "$runs" "$@"
