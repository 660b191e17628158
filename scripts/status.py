"""One table of all runs: what each is doing, how far it is, and how long ago it last gave a sign of life.

Reads status.json of every run folder and nothing else, so that it answers at once and imports no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.runs.lookup import find_runs
from models.runs.status import liveness, read_status

HEADER = ("state", "step", "done", "loss", "age", "folder")
COLOURS = {"running": "green", "finished": "blue", "interrupted": "yellow", "failed": "red", "dead": "red"}
AGES = ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h"), (float("inf"), 86_400, "d"))
GONE = "it ended without a word; go on with --resume {}"


@dataclass(frozen=True)
class Row:
    """One run, as text: the cells of HEADER, and why it is in that state (often empty)."""

    cells: tuple[str, ...]
    reason: str

    @property
    def state(self) -> str:
        return self.cells[0]


def age(heartbeat: Any, now: datetime) -> str:
    """How long ago an ISO 8601 time was, in one unit; "-" if it is no time."""
    try:
        seconds = max(0.0, (now - datetime.fromisoformat(str(heartbeat))).total_seconds())
    except (ValueError, TypeError):
        return "-"
    unit, letter = next((unit, letter) for limit, unit, letter in AGES if seconds < limit)
    return f"{int(seconds // unit)}{letter}"


def number(value: Any, form: str) -> str:
    """A figure as text; "-" where the run has none yet, or something else stands there."""
    return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def describe_run(folder: Path, now: datetime) -> Row:
    """The row of one run. A folder whose status cannot be read is a row too: it must not hide the others."""
    try:
        status = read_status(folder)
    except UserError as error:
        return Row(("unreadable", "-", "-", "-", "-", folder.name), str(error))
    state = liveness(status)
    reason = GONE.format(folder) if state == "dead" else status.get("reason") or ""
    step = number(status.get("step"), ".0f")
    done = number(status.get("progress"), ".0%")
    loss = number(status.get("loss"), ".4g")
    cells = (state, step, done, loss, age(status.get("heartbeat"), now), folder.name)
    return Row(cells, " ".join(str(reason).split()))


def plain_table(rows: Sequence[Row]) -> str:
    """Aligned columns, one line per run, nothing cut: for pipes and files. The reason comes last."""
    table = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADER))]
    reasons = ["", *(row.reason for row in rows)]
    lines = []
    for cells, reason in zip(table, reasons, strict=True):
        state, *figures, folder = (
            cell.rjust(width) if 0 < column < 5 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join((state, *figures, folder, reason)).rstrip())
    return "\n".join(lines)


def print_table(rows: Sequence[Row]) -> None:
    """A coloured table for a terminal of any width: long folder names are folded, never cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in HEADER:
        justify = "left" if name in ("state", "folder") else "right"
        table.add_column(name, justify=justify, no_wrap=name != "folder", overflow="fold")
    for row in rows:
        folder = Text(row.cells[-1])
        if row.reason:
            folder.append(f"\n{row.reason}", style="dim")
        table.add_row(Text(row.state, style=COLOURS.get(row.state, "")), *row.cells[1:-1], folder)
    Console().print(table)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="status",
        description="All runs, newest first. age: since the last sign of life. dead: it says running, but "
        "its process is gone or has been silent for two minutes.",
    )
    parser.add_argument(
        "--experiments_dir",
        "--experiments-dir",
        type=Path,
        default=Path(os.environ.get("EXPERIMENTS_DIR") or "experiments"),
        help="the folder of the run folders (default: %(default)s)",
    )
    folder: Path = parser.parse_args(arguments).experiments_dir
    now = datetime.now(UTC)
    rows = [describe_run(run, now) for run in find_runs(folder)]
    if not rows:
        print(f"no runs in {folder}: 'make demo' makes one in three minutes", file=sys.stderr)
    elif sys.stdout.isatty():
        print_table(rows)
    else:
        print(plain_table(rows))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; Python must not complain about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
