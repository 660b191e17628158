"""One module per command: `python -m scripts.<task>`.

A module has `main` and the flags of its task. `main` parses the flags, then imports the implementation from
scripts.tasks. Importing torch takes seconds, so it is imported only after the flags are parsed: a mistyped flag is
reported at once. See train_flow.py and reconstruct.py for examples. bench.py, bench_peers.py and record.py are
exceptions: they import torch first.
"""

import gc
import os
import shlex
import signal
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - before anything that an older Python cannot read
    print(
        f"error: Python {sys.version.split()[0]} is too old; type: make setup, then .venv/bin/python", file=sys.stderr
    )
    sys.exit(2)

from types import FrameType, TracebackType
from typing import NoReturn

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def advise(reason: str, python: str | None = None) -> NoReturn:
    """End the process with exit code 2 and one line: what is wrong, and the command to type instead.

    python: the interpreter in that command. Default: that of .venv. If .venv is missing or incomplete, the command
    includes `make setup`.
    """
    task = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    steps = [] if os.path.samefile(os.getcwd(), ROOT) else [f"cd {shlex.quote(ROOT)}"]
    own = os.path.join(ROOT, ".venv")
    if python is None:
        python = ".venv/bin/python"
        if sys.prefix == own or not os.path.exists(os.path.join(own, "bin", "python")):
            steps.append("make setup")
    elif steps and os.sep in python:
        python = os.path.abspath(python)
    steps.append(shlex.join([python, "-m", f"scripts.{task}", *sys.argv[1:]]))
    print(f"error: {reason}; type: {' && '.join(steps)}", file=sys.stderr, flush=True)
    os._exit(2)


def name_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an uncaught exception. A package that is not installed is the user's mistake, and needs no traceback."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] not in ("data", "models", "scripts"):
        advise(f"{sys.orig_argv[0]} has no package {error.name}")
    sys.__excepthook__(kind, error, trace)


def leave_early(number: int, frame: FrameType | None) -> None:
    """End the process without a traceback if Ctrl-C comes while a task is being imported."""
    os._exit(128 + number)


# Under `python -m`, set these before the task's module is imported. If SIGINT is ignored, it stays ignored.
if sys.argv[0] == "-m":
    gc.disable()  # until `parse_flags` enables it: collection would take a tenth of the time and free nothing
    sys.excepthook = name_missing_package
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave_early)
