"""How a run shows itself while it goes: a bar on a terminal, and TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.runs.run import Run


class ProgressBar:
    """While entered, a bar with text and time left on a terminal, log lines above it; nothing elsewhere."""

    def __init__(self, run: Run):
        self.run = run
        self.bar: Any = None

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                BarColumn(),
                "{task.percentage:>3.0f}%",
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=1.0)
            self.echo = self.run.echo
            self.run.echo = lambda line: self.bar.console.print(line, markup=False, highlight=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.run.echo = self.echo

    def show(self, progress: float, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=progress, description=text)


class Board:
    """The rows of metrics.csv for TensorBoard, from `step` on (what was written beyond it is hidden)."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        for key, value in row.items():
            if key != "step" and value is not None:
                self.writer.add_scalar(key, value, row["step"])
        self.writer.flush()
