"""Runs a task in several processes: torchrun with the task's exit codes, and threads that do not crowd each other.

    python -m scripts.processes [TORCHRUN OPTIONS] -m scripts.TASK [FLAGS]

`launch.sh` and `slurm.sh` call it.
"""

from __future__ import annotations

import os
import sys

from models import distributed

SHUTDOWN_SECONDS = "120"  # What a process that was asked to stop has for its last checkpoint.


def main(argv: list[str]) -> int:
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_SECONDS)
    return distributed.launch(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
