"""Standard output and error that outlive their terminal, and what tasks say there.

Closing a screen session or an ssh connection sends HUP and takes the terminal away in the same instant. The task
still has a checkpoint to save then, and must not fail because its progress bar has nowhere to go.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import Any, TextIO

from models import processes


class _Terminal(io.FileIO):
    """Drops what a closed terminal can no longer show; every other failure is raised as usual."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def outlast(stream: TextIO) -> TextIO:
    """The same stream, deaf to the end of its terminal. Files and pipes are returned as they are."""
    if not stream.isatty():
        return stream
    raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)


def outlast_terminal() -> None:
    """Applies `outlast` to this process's standard output and error."""
    sys.stdout, sys.stderr = outlast(sys.stdout), outlast(sys.stderr)


def tell(line: str) -> None:
    """A line for people, on standard error; of several processes the first speaks."""
    if processes.is_rank_zero():
        print(line, file=sys.stderr, flush=True)


def tell_progress(done: int, count: int, *words: str) -> None:
    """A line on a terminal that the next one replaces; elsewhere the last one alone."""
    if processes.is_rank_zero() and (sys.stderr.isatty() or done == count):
        text = ", ".join((f"{done} of {count} images", *words))
        print(text, file=sys.stderr, end="\r" if done < count else "\n", flush=True)
