"""One module per task that a person can type: `python -m scripts.<task>`.

A module holds the flags of its task and `main`. It imports scripts.cli and the standard library only. `main` reads the
flags first and then imports its work from scripts.tasks: torch takes seconds to import, and a mistyped flag should be
reported at once. train_flow.py and reconstruct.py show this form.
"""

import os
import signal
import sys
from types import FrameType


def leave_early(number: int, frame: FrameType | None) -> None:
    """End the process without a traceback on Ctrl-C, while a task is still being imported."""
    os._exit(128 + number)


# Only `python -m` sets this handler, before it reads the task's module. A signal that is ignored stays ignored.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave_early)
