"""How every task starts and ends: exit codes, one-line errors, and the state in which a run folder is left."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from data.errors import DataError
from models.errors import UserError
from models.interrupts import Interrupted
from models.run import Run
from scripts.terminal import outlast_terminal


def run_command(task: Callable[[list[str]], None]) -> NoReturn:
    """Runs a task on the command line's arguments and exits: 0, 2 (the user's mistake, one line), 1 (ours), 128 + n."""
    outlast_terminal()
    try:
        task(sys.argv[1:])
    except (UserError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # The reader left; nothing more to say.
        sys.exit(141)
    sys.exit(0)


@contextmanager
def ending(run: Run) -> Iterator[None]:
    """Marks the folder by the way the block ends: finished, interrupted, or failed with a traceback in the log."""
    try:
        yield
    except Interrupted as error:
        run.log(f"interrupted by {error}; go on with --resume {run.folder}")
        run.end("interrupted", str(error))
        raise
    except KeyboardInterrupt:
        run.end("interrupted", "stopped at once: what came after the last checkpoint is lost")
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        # A full disk or a removed folder is often the very reason; Python prints the traceback anyway.
        with suppress(OSError):
            run.log("".join(traceback.format_exception(error)).rstrip())
        run.end("failed", reason)
        raise
    else:
        run.end("finished")
