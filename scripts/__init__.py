"""One module per task: flags -> build -> loop. Run as `python -m scripts.<task>`."""

import os
import signal
import sys
from types import FrameType


def leave_early(number: int, frame: FrameType | None) -> None:
    """What a Ctrl-C does while a task is still being imported, for seconds: no traceback, nothing is lost."""
    os._exit(128 + number)


# So called by `python -m` alone, before the task's own module is read. A signal that is ignored stays so.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave_early)
