"""Standard output and error that can be written after the terminal has closed, and a function that prints messages.

Closing a screen session or an ssh connection sends SIGHUP and removes the terminal at the same time. The task must then
still save a checkpoint. It must not fail because its progress bar cannot be written.
"""

import errno
import io
import sys
from typing import Any, TextIO

from models import processes


class _Terminal(io.FileIO):
    """Terminal that drops its output once the terminal is closed. Other errors are raised."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def outlast(stream: TextIO) -> TextIO:
    """Wrap a terminal stream so that writing still works once the terminal has closed. Return other streams as is."""
    if not stream.isatty():
        return stream
    raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)


def outlast_terminal() -> None:
    """Apply `outlast` to this process's standard output and error."""
    sys.stdout, sys.stderr = outlast(sys.stdout), outlast(sys.stderr)


def tell(line: str) -> None:
    """Print a line to standard error, on rank 0 only."""
    if processes.is_rank_zero():
        print(line, file=sys.stderr, flush=True)
