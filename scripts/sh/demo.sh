#!/usr/bin/env bash
# Demo of two minutes: trains a class-conditional model on small handwritten digits and generates ten images of each.
# The digits come with scikit-learn, so no data is downloaded. The environment is created first if it is missing.
#
#   scripts/sh/demo.sh [FLAGS...]           FLAGS are for train_flow, such as --max_minutes 1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/sh/session_records.sh

for word in "$@"; do
    if [[ $word == --help || $word == -h ]]; then
        scripts/sh/setup.sh --quiet
        exec "$python" -m scripts.train_flow --recipe demo_digits --help
    fi
done

say() { printf '%s\n' "$*" >&2; }

scripts/sh/setup.sh --quiet
say "1/2  training on 1,438 handwritten digits of 8x8 pixels, in 1,000 steps: up to two minutes on two idle cores"
run=$("$python" -m scripts.train_flow --recipe demo_digits "$@")
say "2/2  generating ten images of each digit"
samples=$("$python" -m scripts.generate --run "$run" --num_samples 100 --animate \
    --guidance_scale 1.5 --sampler heun --steps 12)
for file in "$samples/grid.png" "$samples/animation.webp"; do
    [[ -s $file ]] || { say "error: $file was not written" && exit 1; }
done
say "done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
printf 'grid        %s\nanimation   %s\nrun folder  %s\n' "$samples/grid.png" "$samples/animation.webp" "$run"
