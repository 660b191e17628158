#!/usr/bin/env bash
# Measures the task of a session until it ends: CPU and memory of the task and its child processes, and every GPU that
# nvidia-smi lists. It writes CSV rows to a file and to the terminal.
# Only launch.sh calls it: scripts/sh/monitor.sh RECORD
#
#   MONITOR_INTERVAL    seconds between two rows (default 5)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
source scripts/sh/session_records.sh

record=$1
csv=$record.monitor.csv
interval=${MONITOR_INTERVAL:-5}
gpu_query=index,utilization.gpu,memory.used,memory.total,power.draw,temperature.gpu

# Prints the uptime in seconds, then the CPU seconds and the memory in MiB of the process and its descendants.
resources() { # PID
    local clock _
    read -r clock _ </proc/uptime
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v top="$1" -v clock="$clock" -v ticks="$ticks" -v page="$page" '
        { id = $1; sub(/^.*\) . /, ""); parent[id] = $1; used[id] = $11 + $12; resident[id] = $21 }
        END {
            tree[top] = 1
            do {
                grown = 0
                for (id in parent) if (!(id in tree) && parent[id] in tree) { tree[id] = 1; grown = 1 }
            } while (grown)
            for (id in tree) { seconds += used[id] / ticks; memory += resident[id] * page / 1048576 }
            print clock, seconds, memory
        }'
}

# Prints CPU percent since the last call (100 is one core) and memory in MiB. Fails if the task has ended.
task_row() { # PID
    local now
    if [[ -r /proc/uptime ]]; then
        now=$(resources "$1")
        [[ $now != *' 0 0' ]] || return 1
        awk -v before="${before:-0 0 0}" -v now="$now" 'BEGIN {
            split(before, a); split(now, b)
            printf "%.1f,%.0f\n", (b[1] > a[1] ? 100 * (b[2] - a[2]) / (b[1] - a[1]) : 0), b[3] }'
        before=$now
    else
        ps -o %cpu=,rss= -p "$1" | awk '{ printf "%.1f,%.0f\n", $1, $2 / 1024 }'
    fi
}

gpu_rows() { nvidia-smi --query-gpu="$gpu_query" --format=csv,noheader,nounits | tr -d ' '; }

write_rows() { # PID
    local time row gpu
    time=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    task_row "$1" >"$record/row" || return # no subshell, because task_row sets `before`
    read -r row <"$record/row"
    if $has_gpu; then
        gpu_rows | while read -r gpu; do printf '%s,%s,%s\n' "$time" "$row" "$gpu"; done
    else
        printf '%s,%s\n' "$time" "$row"
    fi | tee -a "$csv"
}

id=monitor-${record##*/}
[[ $(get "$record" with) != screen ]] || id=${STY:-$id}
put "$record" monitor_id "$id"
ticks=$(getconf CLK_TCK)
page=$(getconf PAGESIZE)
has_gpu=false
header=time,cpu_percent,memory_mib
if gpus=$(nvidia-smi -L 2>/dev/null) && [[ -n $gpus ]]; then
    has_gpu=true
    header+=,gpu,gpu_percent,gpu_memory_mib,gpu_memory_total_mib,gpu_power_w,gpu_celsius
fi
[[ -d $record ]] || exit 0 # the task has ended, and its record was deleted
printf '%s\n' "$header" | tee -a "$csv"

for ((wait = 0; wait < 50; wait++)); do
    [[ ! -e $record/pid && ! -e $record/exit ]] || break
    sleep 0.1
done
pid=$(get "$record" pid)
before=$(resources "$pid" 2>/dev/null)
elapsed=0
while task_lives "$record"; do
    sleep 1
    ((++elapsed % interval)) || write_rows "$pid"
done
