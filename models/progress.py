"""How a run shows itself while it goes: a bar on a terminal, and TensorBoard. Log lines are `run.py`'s."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.run import Run


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


def duration(seconds: float) -> str:
    """3.2s, 4m05s or 2h07m."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak on a GPU, the process's elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
