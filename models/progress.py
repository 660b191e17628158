"""Progress bar for long work on standard error. If that is not a terminal, nothing is shown."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from models.processes import is_rank_zero

Unit = Literal["items", "bytes", "percent"]


@contextmanager
def progress(title: str, total: float | None, unit: Unit = "items") -> Iterator[Callable[..., None]]:
    """Show a bar on rank 0 while the block runs, below the lines that the block prints.

    total: None if unknown. Yields `advance(amount, title=None)`, which adds to the progress and may change the title.
    """
    if not (sys.stderr.isatty() and is_rank_zero()):
        yield lambda amount, title=None: None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        {"items": bars.MofNCompleteColumn, "bytes": bars.DownloadColumn, "percent": bars.TaskProgressColumn}[unit](),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda amount, title=None: bar.update(task, advance=amount, description=title)


def duration(seconds: float) -> str:
    """Format a duration: 3.2s, 4m05s or 2h07m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
