"""Progress on standard error: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int | None, unit_is_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the amount done since the last call; `total` is None if unknown."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich import progress as bars
    from rich.console import Console

    count = bars.DownloadColumn() if unit_is_bytes else bars.MofNCompleteColumn()
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        count,
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)


def duration(seconds: float) -> str:
    """3.2s, 4m05s or 2h07m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
