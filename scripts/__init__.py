"""One module per command: `python -m scripts.<task>`.

A module has the flags of its task and `main`. `main` parses the flags, then imports the implementation from
scripts.tasks. Before that, it imports no torch, which takes seconds: a mistyped flag should be reported at once. See
train_flow.py and reconstruct.py for examples. bench.py, bench_peers.py and record.py are exceptions.
"""

import os
import signal
import sys
from types import FrameType


def leave_early(number: int, frame: FrameType | None) -> None:
    """End the process without a traceback if Ctrl-C comes while a task is being imported."""
    os._exit(128 + number)


# Under `python -m`, set this handler before the task's module is imported. If SIGINT is ignored, it stays ignored.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave_early)
