"""Run a task from the command line: exit codes, one-line error messages, and the final state of the run folder.

This module imports no torch, so that a mistyped flag is reported at once.
"""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from models import processes
from models.errors import UserError
from models.runs.run import Run
from models.training.interrupts import Interrupted
from scripts import leave_early
from scripts.cli.arguments import forget_flags, spell
from scripts.cli.next_steps import next_command
from scripts.cli.terminal import outlast_terminal


def run_command(task: Callable[[list[str]], None], parallel: bool = False) -> NoReturn:
    """Run a task with the arguments of the command line, and exit.

    parallel: whether the task can run in several processes. Exit codes: 0 for success; 2 for a user error, with a
    one-line message; 1 for an error in the code; 128 + n after signal n.
    """
    if signal.getsignal(signal.SIGINT) is leave_early:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    outlast_terminal()
    forget_flags()
    code = _run(task, parallel)
    if code != 0 and processes.world_size() > 1:
        # A regular exit would wait for ever for processes that have already ended.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if "torch" in sys.modules:
        from models import distributed

        distributed.destroy_process_group()
    sys.exit(code)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Pause the garbage collector while the block imports torch. It would take a sixth of the time and free nothing."""
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _run(task: Callable[[list[str]], None], parallel: bool) -> int:
    """Run a task and return its exit code."""
    try:
        if processes.world_size() > 1 and not parallel:
            raise UserError("this task runs in one process: leave out GPUS and PROCS")
        task(sys.argv[1:])
    except UserError as error:
        processes.delay_failure_report()
        print(f"error: {error.text(spell)}", file=sys.stderr)
        return 2
    except Interrupted as error:
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The reader has closed the pipe.
        return 141
    except Exception:
        if processes.world_size() == 1:
            raise
        processes.delay_failure_report()
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def ending(run: Run) -> Iterator[None]:
    """Record the run's state when the block ends: finished, interrupted, or failed with a traceback in the log."""
    try:
        yield
    except Interrupted as error:
        _end(run, "interrupted", str(error))
        if processes.world_size() > 1:
            from models import distributed

            distributed.barrier()  # Slurm ends all processes when one exits, so all wait until the state is written.
        raise
    except KeyboardInterrupt:
        _end(run, "interrupted", "stopped at once: training after the last checkpoint is lost")
        raise
    except BaseException as error:
        processes.delay_failure_report()
        process = "" if processes.is_rank_zero() else f"in process {processes.rank()} of {processes.world_size()}: "
        text = error.text(spell) if isinstance(error, UserError) else str(error)
        reason = f"{process}{type(error).__name__}: {text}".splitlines()[0]
        run.fail(reason, "".join(traceback.format_exception(error)).rstrip())
        raise
    else:
        _end(run, "finished")


def _end(run: Run, state: str, reason: str = "") -> None:
    """End a run. The last line of its log is the command to type next."""
    run.end(state, reason)
    run.log(f"{state}{reason and f' ({reason})'}; next: {next_command(run.folder, run.task, state)}")
