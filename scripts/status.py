"""Print a table of all runs: state, step, progress, loss, and the age of the last heartbeat.

The task reads only the status.json of each run and imports no torch, so that the table appears at once.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.places import expanded
from models.runs.lookup import find_runs
from models.runs.status import liveness, read_status

HEADER = ("state", "step", "done", "loss", "age", "folder")
COLOURS = {"running": "green", "finished": "blue", "interrupted": "yellow", "failed": "red", "dead": "red"}
AGES = ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h"), (float("inf"), 86_400, "d"))
DEAD = "the process ended without writing its state; resume with --resume {}"


@dataclass(frozen=True)
class Row:
    """Table row of one run: the cells of HEADER as text, and the reason for the state, which may be empty."""

    cells: tuple[str, ...]
    reason: str


def age(heartbeat: Any, now: datetime) -> str:
    """Return the age of an ISO 8601 time as text with one unit, e.g. 5m; "-" if it is not a time."""
    try:
        seconds = max(0.0, (now - datetime.fromisoformat(str(heartbeat))).total_seconds())
    except (ValueError, TypeError):
        return "-"
    unit, letter = next((unit, letter) for limit, unit, letter in AGES if seconds < limit)
    return f"{int(seconds // unit)}{letter}"


def number(value: Any, form: str) -> str:
    """Return a number as text; "-" if the value is not a number."""
    return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def describe_run(folder: Path, now: datetime) -> Row:
    """Return the row of one run. If its status cannot be read, the row says so."""
    try:
        status = read_status(folder)
    except UserError as error:
        return Row(("unreadable", "-", "-", "-", "-", folder.name), str(error))
    state = liveness(status)
    reason = DEAD.format(folder) if state == "dead" else status.get("reason") or ""
    step = number(status.get("step"), ".0f")
    done = number(status.get("progress"), ".0%")
    loss = number(status.get("loss"), ".4g")
    cells = (state, step, done, loss, age(status.get("heartbeat"), now), folder.name)
    return Row(cells, " ".join(str(reason).split()))


def plain_table(rows: Sequence[Row]) -> str:
    """Return aligned columns for pipes and files, one line per run. No text is cut. The reason is the last column."""
    table = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADER))]
    reasons = ["", *(row.reason for row in rows)]
    lines = []
    for cells, reason in zip(table, reasons, strict=True):
        columns = enumerate(zip(cells, widths, strict=True))
        padded = [cell.rjust(width) if 0 < column < 5 else cell.ljust(width) for column, (cell, width) in columns]
        lines.append("  ".join((*padded, reason)).rstrip())
    return "\n".join(lines)


def print_table(rows: Sequence[Row]) -> None:
    """Print a coloured table that fits the terminal. Long folder names are folded, not cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in HEADER:
        justify = "left" if name in ("state", "folder") else "right"
        table.add_column(name, justify=justify, no_wrap=name != "folder", overflow="fold")
    for row in rows:
        state, *figures, name = row.cells
        folder = Text(name)
        if row.reason:
            folder.append(f"\n{row.reason}", style="dim")
        table.add_row(Text(state, style=COLOURS.get(state, "")), *figures, folder)
    Console().print(table)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="status",
        description="Show all runs, newest first. age: time since the last heartbeat. dead: the state is "
        "running, but the process has ended or has been silent for two minutes.",
    )
    parser.add_argument(
        "--experiments_dir",
        type=Path,
        default=Path(os.environ.get("EXPERIMENTS_DIR") or "experiments"),
        help="folder of the run folders (default: %(default)s)",
    )
    words = [word.replace("experiments-dir", "experiments_dir") for word in arguments]
    folder: Path = parser.parse_args(words).experiments_dir
    now = datetime.now(UTC)
    rows = [describe_run(run, now) for run in find_runs(folder)]
    if not rows:
        print(f"no runs in {folder}: 'make demo' trains one in three minutes", file=sys.stderr)
    elif sys.stdout.isatty():
        print_table(rows)
    else:
        print(plain_table(rows))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # The reader, e.g. `head`, has closed the pipe. Python must not report it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
