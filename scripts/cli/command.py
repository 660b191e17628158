"""How every task starts and ends: exit codes, one-line errors, and the state in which a run folder is left."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from models import distributed, processes
from models.errors import UserError
from models.runs.run import Run
from models.training.interrupts import Interrupted
from scripts import leave_early
from scripts.cli.terminal import outlast_terminal


def run_command(task: Callable[[list[str]], None], parallel: bool = False) -> NoReturn:
    """Runs a task on the command line's arguments and exits: 0, 2 (the user's mistake, one line), 1 (ours), 128 + n.

    parallel: whether several processes can do it together.
    """
    if signal.getsignal(signal.SIGINT) is leave_early:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    outlast_terminal()
    code = _run(task, parallel)
    if code != 0 and processes.world_size() > 1:
        # Others may be gone, and to wait for them at the exit would be to wait for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    distributed.destroy_process_group()
    sys.exit(code)


def _run(task: Callable[[list[str]], None], parallel: bool) -> int:
    """The exit code of a task."""
    try:
        if processes.world_size() > 1 and not parallel:
            raise UserError("this task runs in one process: leave out GPUS and PROCS")
        task(sys.argv[1:])
    except UserError as error:
        processes.delay_failure_report()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The reader left; nothing more to say.
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
    """Marks the folder by the way the block ends: finished, interrupted, or failed with a traceback in the log."""
    try:
        yield
    except Interrupted as error:
        run.log(f"interrupted by {error}; go on with --resume {run.folder}")
        run.end("interrupted", str(error))
        distributed.barrier()  # Slurm ends all processes with the first that leaves: none does before this is written
        raise
    except KeyboardInterrupt:
        run.end("interrupted", "stopped at once: what came after the last checkpoint is lost")
        raise
    except BaseException as error:
        processes.delay_failure_report()
        of_which = "" if processes.is_rank_zero() else f"in process {processes.rank()} of {processes.world_size()}: "
        reason = f"{of_which}{type(error).__name__}: {error}".splitlines()[0]
        run.fail(reason, "".join(traceback.format_exception(error)).rstrip())
        raise
    else:
        run.end("finished")
