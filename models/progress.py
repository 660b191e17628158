"""Progress of long work on standard error: a bar on a terminal, elsewhere a plain line every few seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from models.processes import is_rank_zero

Unit = Literal["items", "bytes", "percent"]
LINE_SECONDS = 6.0  # Time between two plain lines.
PAUSE_SECONDS = 1.0  # A shorter pause between two pieces of work does not restart LINE_SECONDS.


@contextmanager
def progress(
    title: str, total: float | None, unit: Unit = "items", bar: bool = True, lines: bool = True
) -> Iterator[Callable[..., None]]:
    """Show the progress of the block on rank 0: a bar on a terminal, elsewhere a line every LINE_SECONDS.

    On a terminal, lines that the block prints appear above the bar. total: None if unknown. bar: whether to show the
    bar. lines: whether to print the lines; False for a block that prints its own. Yields `advance(amount, title=None)`,
    which adds to the progress and may change the title. The lines of a nested progress begin with the outer titles.
    """
    on_terminal = sys.stderr.isatty()
    if not is_rank_zero() or (on_terminal and not bar):
        yield lambda amount, title=None: None
        return
    show = _bars if on_terminal else _lines
    work = _Work(title, total, unit, lines)
    show.begin(work)

    def advance(amount: float, title: str | None = None) -> None:
        work.done += amount
        work.title = work.title if title is None else title
        show.update(work)

    try:
        yield advance
    finally:
        show.end(work)


def duration(seconds: float) -> str:
    """Format a duration: 3.2s, 4m05s or 2h07m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


@dataclass(eq=False)
class _Work:
    """Work in progress. task: the id of its bar in `rich`."""

    title: str
    total: float | None
    unit: Unit
    lines: bool
    done: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    task: Any = None

    def __str__(self) -> str:
        """Return the progress and the time as text, without the title."""
        spent = duration(time.perf_counter() - self.started)
        if self.total is None:
            return spent
        done = min(self.done, self.total)
        if self.unit == "percent":
            return f"{100 * done / self.total:.0f} %, {spent}"
        size, word = (1e6, " MB") if self.unit == "bytes" else (1, "")
        return f"{int(done / size):,} of {int(self.total / size):,}{word}, {spent}"


class _Lines:
    """Plain lines. A thread prints them, because a single library call may take minutes."""

    def __init__(self) -> None:
        self.open: list[_Work] = []  # Outermost first.
        self.last = self.ended = 0.0  # Times of the last line and of the end of the last work.
        self.stop = threading.Event()

    def begin(self, work: _Work) -> None:
        if not self.open:
            if work.started - self.ended > PAUSE_SECONDS:
                self.last = work.started
            self.stop = threading.Event()
            threading.Thread(target=self._run, args=(self.stop,), name="progress", daemon=True).start()
        self.open.append(work)

    def update(self, work: _Work) -> None:
        pass

    def end(self, work: _Work) -> None:
        self.open.remove(work)
        if not self.open:
            self.stop.set()
            self.ended = time.perf_counter()

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(max(0.01, self.last + LINE_SECONDS - time.perf_counter())):
            works = list(self.open)
            if works and time.perf_counter() >= self.last + LINE_SECONDS:
                self.last = time.perf_counter()
                if not works[-1].lines:
                    continue
                titles = [work.title for work in works if work.lines and work.title]
                with suppress(OSError, ValueError):  # Standard error may be closed.
                    print(": ".join((*titles, str(works[-1]))), file=sys.stderr, flush=True)


class _Bars:
    """Bars of `rich`, one for each `progress` block that is running."""

    def __init__(self) -> None:
        self.open: list[_Work] = []
        self.display: Any = None

    def begin(self, work: _Work) -> None:
        if not self.open:
            from rich import progress as bars
            from rich.console import Console

            columns = (
                bars.TextColumn("{task.description}", markup=False),
                bars.BarColumn(),
                bars.TextColumn("{task.fields[work]}", markup=False),
                bars.TimeRemainingColumn(),
            )
            self.display = bars.Progress(
                *columns, console=Console(stderr=True), refresh_per_second=2, transient=True, redirect_stdout=False
            )
            self.display.start()
        self.open.append(work)
        work.task = self.display.add_task(work.title, total=work.total, work=work)

    def update(self, work: _Work) -> None:
        self.display.update(work.task, completed=work.done, description=work.title)

    def end(self, work: _Work) -> None:
        self.open.remove(work)
        if self.open:
            self.display.remove_task(work.task)
        else:
            self.display.stop()


_lines, _bars = _Lines(), _Bars()
