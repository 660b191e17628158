#!/usr/bin/env bash
# Tests and measures this repository on a GPU, in three to five minutes. Runs the tests that need a GPU, the gpu table
# of `bench`, and a short `record`, which trains for one minute and evaluates. Prints the folder of the results.
#
#   scripts/sh/measure_gpu.sh [FOLDER]      FOLDER: for the results, by default experiments/gpu
#   TINY=1 scripts/sh/measure_gpu.sh        tiny numbers, to try the script where there is no GPU
#
# PYTHON names the interpreter (default: .venv/bin/python). MNIST is read from DATA_ROOT.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/sh/session_records.sh
scripts/sh/setup.sh --quiet --dev
folder=${1:-experiments/gpu}
dataset=mnist minutes=1 images=10000
table=()
if [[ -n ${TINY:-} ]]; then
    dataset=digits minutes=0.05 images=150
    table=(--batches 4 8 -- --network.width 8 --network.multipliers 1 2)
fi
mkdir -p "$folder"
exec > >(tee "$folder/log.txt" >&2) 2>&1

if command -v nvidia-smi >/dev/null; then nvidia-smi -L; fi
git log -1 --format='commit %h of %cs' 2>/dev/null || true
"$python" -m pytest -n 0 -q tests/commands/test_cuda.py || echo "FAILED: tests/commands/test_cuda.py"
"$python" -m scripts.bench --tables gpu --out "$folder/bench.txt" "${table[@]+"${table[@]}"}"
"$python" -m scripts.record --dataset "$dataset" --minutes "$minutes" --seeds 0 --num_images "$images" \
    --records "$folder/records.md" --experiments_dir "$folder"
echo "results: $folder"
