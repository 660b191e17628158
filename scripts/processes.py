"""Runs a task in several processes: torchrun with the task's exit codes, and threads that do not crowd each other.

    python -m scripts.processes [TORCHRUN OPTIONS] -m scripts.TASK [FLAGS]

`launch.sh` and `slurm.sh` call it.
"""

from __future__ import annotations

import os
import sys

import psutil

from models import distributed

SHUTDOWN_SECONDS = "120"  # What a process that was asked to stop has for its last checkpoint.


def main(argv: list[str]) -> int:
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads(argv)))
    split = argv.index("-m")
    return distributed.launch(argv[:split], argv[split + 1], argv[split + 2 :])


def threads(argv: list[str]) -> int:
    """Cores for each of the processes that torchrun starts on this machine; at least 1."""
    words = [*argv, "1"]
    here = words[words.index("--nproc-per-node") + 1] if "--nproc-per-node" in words else "1"
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return max(1, cores // int(here)) if here.isdigit() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
