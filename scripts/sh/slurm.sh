#!/usr/bin/env bash
# Gives a task to Slurm: on every node one torchrun, which find each other by its c10d rendezvous. A training that is
# preempted, or whose time is up, saves a checkpoint, is queued again and goes on from there.
#
#   scripts/sh/slurm.sh TASK [FLAGS...]     submits itself with sbatch, and prints the number of the job
#   sbatch [OPTIONS] scripts/sh/slurm.sh TASK [FLAGS...]     the same with your options, from the repository's folder,
#                       instead of NODES, GPUS, CPUS and TIME; one torchrun a node, whatever they say of tasks
#
#   NODES               machines (1)
#   GPUS                GPUs of each machine, a process each (1); 0 for the CPUs
#   PROCS               with GPUS=0: processes on each machine (1)
#   CPUS                cores of each machine (as many as Slurm gives by itself)
#   TIME                limit of the job, as sbatch writes it (1-00:00:00)
#   EXPERIMENTS_DIR     where run folders and logs are kept (experiments), on a file system that all nodes see
#
# Other options of sbatch come from its variables, such as SBATCH_PARTITION and SBATCH_ACCOUNT.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail
# Slurm runs a copy of this file, named slurm_script, in the folder that the job was submitted from. The job's number
# alone says nothing: a shell of salloc has one, too.
in_job=false
[[ ${BASH_SOURCE[0]##*/} != slurm_script || -z ${SLURM_JOB_ID:-} ]] || in_job=true
$in_job || cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/sh/session_records.sh

usage() { sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p;}' scripts/sh/slurm.sh >&2; }

check() { # TASK
    local tasks
    tasks=$(tasks_with 'parallel=True')
    [[ " $tasks" == *" $1 "* ]] || die 2 "no task '$1' for several processes; there are: ${tasks% }"
    [[ ${NODES:-1} =~ ^[1-9][0-9]{0,3}$ ]] || die 2 "NODES=$NODES: how many machines"
    [[ ${GPUS:-1} =~ ^[0-9]{1,2}$ ]] || die 2 "GPUS=$GPUS: how many GPUs of each machine, 0 for the CPUs"
    [[ ${PROCS:-1} =~ ^[1-9][0-9]{0,2}$ ]] || die 2 "PROCS=$PROCS: how many processes on each machine"
    [[ ${CPUS:-1} =~ ^[1-9][0-9]{0,3}$ ]] || die 2 "CPUS=$CPUS: how many cores of each machine"
    need_environment
}

submit() { # TASK FLAGS...
    local options
    command -v sbatch >/dev/null || die 2 "sbatch is not installed: this is no machine to submit Slurm jobs from"
    mkdir -p "$launch" 2>/dev/null || die 2 "cannot write to $launch: choose another folder with EXPERIMENTS_DIR"
    options=(--parsable --job-name "$1" --nodes "${NODES:-1}" --ntasks-per-node 1 --time "${TIME:-1-00:00:00}")
    options+=(--output "$launch/slurm-%j.log")
    ((${GPUS:-1} == 0)) || options+=(--gpus-per-node "${GPUS:-1}")
    [[ -z ${CPUS:-} ]] || options+=(--cpus-per-task "$CPUS")
    sbatch "${options[@]}" scripts/sh/slurm.sh "$@"
}

# The run folder that an earlier start of this job has written, if it can be taken up.
earlier_run() {
    local folder
    folder=$(cat "$record".*.out 2>/dev/null | tail -n 1)
    [[ -z $folder || ! -e $folder/checkpoints/last ]] || printf '%s\n' "$folder"
}

run() { # TASK FLAGS...
    local task=$1 head processes folder code job expired=false nodes=${SLURM_JOB_NUM_NODES:-1} shape
    shift
    mkdir -p "$launch"
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head=${head%%$'\n'*} # the first; `| head -n 1` would end scontrol by SIGPIPE, and pipefail this script
    processes=${SLURM_GPUS_ON_NODE:-0}
    export GPUS=$processes
    if ((processes == 0)); then
        export CUDA_VISIBLE_DEVICES=
        processes=${PROCS:-1}
    fi
    folder=$(earlier_run)
    [[ $task != train_* || -z $folder ]] || set -- "$@" --resume "$folder"
    shape=(--nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1)
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || shape+=(--cpus-per-task "$SLURM_CPUS_PER_TASK") # srun does not look
    srun --kill-on-bad-exit=1 "${shape[@]}" .venv/bin/python -m models.distributed --nnodes "$nodes" \
        --nproc-per-node "$processes" --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
        --rdzv-endpoint "$head:$((20000 + SLURM_JOB_ID % 10000))" -m "scripts.$task" "$@" \
        >"$record.${SLURM_RESTART_COUNT:-0}.out" &
    job=$!
    trap 'kill -TERM "$job"' TERM INT
    trap 'expired=true; kill -TERM "$job"' USR1
    while kill -0 "$job" 2>/dev/null; do wait "$job" || true; done # a signal ends the waiting, not the job
    code=0
    wait "$job" || code=$? # bash keeps it; a waiting that a signal ended has the signal's
    cat "$record.${SLURM_RESTART_COUNT:-0}.out"
    # What cannot go on would begin anew for ever. After preemption Slurm does it, after scancel nobody.
    if $expired && ((code != 0)) && [[ $task == train_* ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
    return "$code"
}

if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
    usage
    exit $(($# == 0 ? 2 : 0))
fi
check "$1"
launch=$(launch_folder)
if $in_job; then
    record=$launch/slurm-$SLURM_JOB_ID
    run "$@"
else
    submit "$@"
fi
