#!/usr/bin/env bash
# Submits a task to Slurm, with one torchrun per node and a c10d rendezvous.
# A training that is preempted or reaches its time limit saves a checkpoint.
# It is requeued and resumes from there.
#
#   scripts/sh/slurm.sh TASK [FLAGS...]
#                       submit with sbatch, print the job id
#   sbatch [OPTIONS] scripts/sh/slurm.sh TASK [FLAGS...]
#                       submit from the repository's folder, with your own
#                       options, which replace NODES, GPUS, CPUS and TIME.
#                       Each node runs one torchrun in any case.
#
#   NODES               number of nodes (default 1)
#   GPUS                GPUs per node, one process each; 0 for CPUs (default 1)
#   PROCS               processes per node; needs GPUS=0 (default 1)
#   CPUS                cores per node (default: chosen by Slurm)
#   TIME                time limit in the format of sbatch (default 1-00:00:00)
#   EXPERIMENTS_DIR     folder of run folders and logs, on a file system that
#                       all nodes share (default: experiments)
#
# sbatch reads further options from its own variables, such as
# SBATCH_PARTITION and SBATCH_ACCOUNT.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -euo pipefail
# In a job, Slurm runs a copy of this file named slurm_script, in the folder of the submission. The job id alone is no
# sign of a job: a shell of salloc has one, too.
in_job=false
[[ ${BASH_SOURCE[0]##*/} != slurm_script || -z ${SLURM_JOB_ID:-} ]] || in_job=true
$in_job || cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/sh/session_records.sh

usage() { sed -n '2,/^#SBATCH/{/^#SBATCH/d;s/^# \{0,1\}//p;}' scripts/sh/slurm.sh >&2; }

check() { # TASK
    check_task "$1"
    is_parallel "$1" || die 2 "$1 runs on one process: use scripts/sh/launch.sh, or choose from $parallel_tasks"
    [[ ${NODES:-1} =~ ^[1-9][0-9]{0,3}$ ]] || die 2 "NODES=$NODES: must be a number of nodes, at least 1"
    check_number GPUS 'GPUs per node, or 0 for CPUs'
    [[ ${PROCS:-1} =~ ^[1-9][0-9]{0,2}$ ]] || die 2 "PROCS=$PROCS: must be a number of processes per node, at least 1"
    [[ ${CPUS:-1} =~ ^[1-9][0-9]{0,3}$ ]] || die 2 "CPUS=$CPUS: must be a number of cores per node, at least 1"
    need_environment
}

submit() { # TASK FLAGS...
    local options
    command -v sbatch >/dev/null || die 2 "sbatch is not installed: submit Slurm jobs from a machine that has it"
    mkdir -p "$launch" 2>/dev/null || die 2 "cannot write to $launch: choose another folder with EXPERIMENTS_DIR"
    options=(--parsable --job-name "$1" --nodes "${NODES:-1}" --ntasks-per-node 1 --time "${TIME:-1-00:00:00}")
    options+=(--output "$launch/slurm-%j.log")
    ((${GPUS:-1} == 0)) || options+=(--gpus-per-node "${GPUS:-1}")
    [[ -z ${CPUS:-} ]] || options+=(--cpus-per-task "$CPUS")
    sbatch "${options[@]}" scripts/sh/slurm.sh "$@"
}

# Prints the run folder of an earlier start of this job, if it has a checkpoint.
earlier_run() {
    local folder
    folder=$(cat "$record".*.out 2>/dev/null | tail -n 1)
    [[ -z $folder || ! -e $folder/checkpoints/last ]] || printf '%s\n' "$folder"
}

# Returns whether a task saves checkpoints and can be resumed.
resumes() { # TASK
    [[ $1 == train_* || $1 == distill ]]
}

run() { # TASK FLAGS...
    local task=$1 head processes folder code job expired=false nodes=${SLURM_JOB_NUM_NODES:-1} shape
    shift
    mkdir -p "$launch"
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head=${head%%$'\n'*} # with `| head -n 1`, scontrol would die of SIGPIPE and, by pipefail, this script too
    processes=${SLURM_GPUS_ON_NODE:-0}
    export GPUS=$processes
    if ((processes == 0)); then
        export CUDA_VISIBLE_DEVICES=
        processes=${PROCS:-1}
    fi
    TASK_COMMAND="NODES=$nodes GPUS=$GPUS ${PROCS:+PROCS=$PROCS }scripts/sh/slurm.sh$(printf ' %q' "$task" "$@")"
    export TASK_COMMAND # for environment.txt
    folder=$(earlier_run)
    [[ -z $folder ]] || ! resumes "$task" || set -- "$@" --resume "$folder"
    shape=(--nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1)
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || shape+=(--cpus-per-task "$SLURM_CPUS_PER_TASK") # srun ignores the variable
    srun --kill-on-bad-exit=1 "${shape[@]}" "$python" -m models.distributed --nnodes "$nodes" \
        --nproc-per-node "$processes" --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
        --rdzv-endpoint "$head:$((20000 + SLURM_JOB_ID % 10000))" -m "scripts.$task" "$@" \
        >"$record.${SLURM_RESTART_COUNT:-0}.out" &
    job=$!
    trap 'kill -TERM "$job"' TERM INT
    trap 'expired=true; kill -TERM "$job"' USR1
    while kill -0 "$job" 2>/dev/null; do wait "$job" || true; done # a signal ends `wait`, not the job
    code=0
    wait "$job" || code=$? # the job's exit code; the interrupted `wait` above returned the signal's
    cat "$record.${SLURM_RESTART_COUNT:-0}.out"
    # Only a training is requeued: any other task would start from the beginning every time. After preemption Slurm
    # requeues the job itself. After scancel the job is not requeued.
    if $expired && ((code != 0)) && resumes "$task"; then scontrol requeue "$SLURM_JOB_ID"; fi
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
