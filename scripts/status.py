"""Print a table of all runs and studies: state, step, progress, loss, age of the last heartbeat, and what to type next.

The task reads only the status.json and config.txt of each run and imports no torch, so the table appears at once.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from models.errors import UserError
from models.places import experiments_dir
from models.runs.lookup import CONFIG, STUDIES_FOLDER, find_runs, find_studies, name_loss
from models.runs.status import liveness, read_status
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.next_steps import next_command

HEADER = ("state", "step", "done", "loss", "value", "age", "folder")
TEXTS = ("state", "loss", "folder")  # Columns of text. The others have figures.
COLOURS = {"running": "green", "finished": "blue", "interrupted": "yellow", "failed": "red", "dead": "red"}
AGES = ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h"), (float("inf"), 86_400, "d"))
DESCRIPTION = (
    "Show all runs and studies, and what to type next. loss: what the run minimises. value: mean loss in the last row "
    "of the log; compare it only among runs with the same loss and data set. age: time since the last heartbeat. dead: "
    "the state is running, but the process has ended or has been silent for two minutes. step of a study: "
    "number of its trainings that have ended."
)


@dataclass(frozen=True)
class StatusFlags:
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder of the run folders. The variable EXPERIMENTS_DIR sets its default."""
    dataset: tuple[str, ...] = ()
    """Show only runs on these data sets."""
    task: tuple[Literal["train_ddpm", "train_flow", "train_latent", "distill", "train_vae", "study"], ...] = ()
    """Show only runs of these tasks."""
    state: tuple[Literal["running", "finished", "interrupted", "failed", "dead", "unreadable"], ...] = ()
    """Show only runs in these states."""
    sort: Literal["newest", "state", "step", "loss", "age"] = "newest"
    """Order of the rows. step: most steps first. loss: by loss, then by value. age: latest heartbeat first."""


@dataclass(frozen=True)
class Row:
    """Table row of one run. cells: text of the columns HEADER. reason: why it is in this state; may be empty."""

    cells: tuple[str, ...]
    reason: str
    status: Mapping[str, Any]
    next: str = ""

    @property
    def advice(self) -> str:
        """The next command if the run has ended early, else an empty string."""
        return f"next: {self.next}" if self.cells[0] in ("interrupted", "failed", "dead") else ""


SORTS: dict[str, Callable[[Row], Any]] = {
    "newest": lambda row: 0,  # The rows already have this order.
    "state": lambda row: row.cells[0],
    "step": lambda row: -_figure(row.status.get("step"), -1),
    "loss": lambda row: (row.cells[3] == "-", row.cells[3], _figure(row.status.get("loss"), math.inf)),
    "age": lambda row: _seconds(row.status.get("heartbeat"), datetime.now(UTC)),
}


def _seconds(heartbeat: Any, now: datetime) -> float:
    """Return the age of an ISO 8601 time, at least 0; infinity if it is not a time."""
    try:
        return max(0.0, (now - datetime.fromisoformat(str(heartbeat))).total_seconds())
    except (ValueError, TypeError):
        return math.inf


def age(heartbeat: Any, now: datetime) -> str:
    """Return the age of an ISO 8601 time as text with one unit, e.g. 5m; "-" if it is not a time."""
    seconds = _seconds(heartbeat, now)
    if seconds == math.inf:
        return "-"
    unit, letter = next((unit, letter) for limit, unit, letter in AGES if seconds < limit)
    return f"{int(seconds // unit)}{letter}"


def _figure(value: Any, otherwise: float) -> float:
    """Return the value if it is a finite number, else `otherwise`."""
    return value if isinstance(value, int | float) and math.isfinite(value) else otherwise


def number(value: Any, form: str) -> str:
    """Return a number as text; "-" if the value is not a number."""
    return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def read_loss(folder: Path) -> str:
    """Return what the loss of a run measures, e.g. "eps l2"; "-" if its settings are unknown."""
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "-"
    return name_loss(dict(re.findall(r"^(\w+): (\S+)$", text, re.MULTILINE))) or "-"  # YAML takes ten times as long.


def describe_run(folder: Path, now: datetime) -> Row:
    """Return the row of one run or study. If its status cannot be read, the row says so."""
    name = str(Path(STUDIES_FOLDER, folder.name)) if folder.parent.name == STUDIES_FOLDER else folder.name
    try:
        status = read_status(folder)
    except UserError as error:
        return Row(("unreadable", *"-" * 5, name), str(error), {})
    state = liveness(status)
    reason = "the process ended without writing its state" if state == "dead" else status.get("reason") or ""
    figures = number(status.get("step"), ".0f"), number(status.get("progress"), ".0%")
    value = number(status.get("loss"), ".4g")
    cells = (state, *figures, read_loss(folder), value, age(status.get("heartbeat"), now), name)
    return Row(cells, " ".join(str(reason).split()), status, next_command(folder, str(status.get("task")), state))


def select(rows: Sequence[Row], flags: StatusFlags) -> list[Row]:
    """Return the rows that match the flags, in the order of --sort."""
    kept = [
        row
        for row in rows
        if (not flags.state or row.cells[0] in flags.state)
        and (not flags.task or row.status.get("task") in flags.task)
        and (not flags.dataset or row.status.get("dataset") in flags.dataset)
    ]
    return sorted(kept, key=SORTS[flags.sort])


def plain_table(rows: Sequence[Row]) -> str:
    """Return aligned columns for pipes and files, one line per run. No text is cut. The reason is the last column."""
    table = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(cells[column]) for cells in table) for column in range(len(HEADER))]
    reasons = ["", *("; ".join(filter(None, (row.reason, row.advice))) for row in rows)]
    lines = []
    for cells, reason in zip(table, reasons, strict=True):
        columns = zip(HEADER, cells, widths, strict=True)
        padded = [cell.ljust(width) if head in TEXTS else cell.rjust(width) for head, cell, width in columns]
        lines.append("  ".join((*padded, reason)).rstrip())
    return "\n".join(lines)


def print_table(rows: Sequence[Row]) -> None:
    """Print a coloured table that fits the terminal. Long names are wrapped, not cut. Commands follow, unwrapped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in HEADER:
        folds = head in ("loss", "folder")
        table.add_column(head, justify="left" if head in TEXTS else "right", no_wrap=not folds, overflow="fold")
    for row in rows:
        state, *cells, name = row.cells
        folder = Text(name)
        if row.reason:
            folder.append(f"\n{row.reason}", style="dim")
        table.add_row(Text(state, style=COLOURS.get(state, "")), *cells, folder)
    console = Console()
    console.print(table)
    for row in rows:
        if row.advice:
            console.print(Text(f"{row.cells[0]} {row.advice}"), soft_wrap=True)


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, StatusFlags(), "status", DESCRIPTION)
    now, folder = datetime.now(UTC), Path(flags.experiments_dir)
    every = [describe_run(found, now) for found in (*find_runs(folder), *find_studies(folder))]
    rows = select(every, flags)
    if not every:
        print(f"no runs in {folder}: 'make demo' trains one in two minutes", file=sys.stderr)
    elif not rows:
        names = ", ".join(sorted({str(row.status.get("dataset")) for row in every if row.status}))
        print(f"none of {len(every)} runs in {folder} matches the flags; their data sets: {names}", file=sys.stderr)
    else:
        print_table(rows) if sys.stdout.isatty() else print(plain_table(rows))
        sys.stdout.flush()
        newest = max(rows, key=lambda row: row.status.get("started") or "")
        if newest.next and not newest.advice:
            print(f"newest: {newest.cells[-1]} ({newest.cells[0]}); next: {newest.next}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
