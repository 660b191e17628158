"""Standard output and error that survive the end of their terminal, and the lines that tasks print.

Closing a screen session or an ssh connection sends HUP and removes the terminal at the same instant. The task still has
to save a checkpoint then, and must not fail because its progress bar cannot be written.
"""

import errno
import io
import sys
from typing import Any, TextIO

from models import processes


class _Terminal(io.FileIO):
    """Terminal whose output is dropped once it is closed. All other failures are raised."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def outlast(stream: TextIO) -> TextIO:
    """Return the stream such that it survives the end of its terminal. Files and pipes are returned unchanged."""
    if not stream.isatty():
        return stream
    raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)


def outlast_terminal() -> None:
    """Apply `outlast` to this process's standard output and error."""
    sys.stdout, sys.stderr = outlast(sys.stdout), outlast(sys.stderr)


def tell(line: str) -> None:
    """Print a line on standard error, on rank 0 only."""
    if processes.is_rank_zero():
        print(line, file=sys.stderr, flush=True)


def tell_progress(done: int, count: int, *words: str) -> None:
    """Print progress on rank 0: on a terminal as one line that is overwritten, elsewhere only at the end."""
    if processes.is_rank_zero() and (sys.stderr.isatty() or done == count):
        text = ", ".join((f"{done} of {count} images", *words))
        print(text, file=sys.stderr, end="\r" if done < count else "\n", flush=True)
