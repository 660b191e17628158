"""Contents of a run folder. A missing or damaged file adds a note and raises no exception."""

import csv
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from models.errors import UserError
from models.report.evaluations import Evaluated, read_evaluations
from models.runs.environment import ENVIRONMENT, read_starts
from models.runs.lookup import CONFIG, read_config
from models.runs.status import STATUS, liveness, read_status
from models.runs.yaml_files import read_yaml

LOG, METRICS, MONITOR = "training_log.txt", "metrics.csv", "monitor.csv"
MARKS = (STATUS, CONFIG, ENVIRONMENT, LOG, METRICS)  # A folder with one of these files is a run.
LOG_LINES, LOG_BYTES = 60, 60_000  # Last lines of the log that are shown, and bytes read to find them.
DEAD = "the process ended without writing its state"
Value = TypeVar("Value")
Columns = dict[str, list[float | None]]


@dataclass(frozen=True)
class RunFacts:
    """Contents of a run folder. state: from `liveness`, or "unreadable" without a status.

    started: what environment.txt says about each start of the run. metrics, monitor: columns by name. shape: of the
    images or latents that the network sees, () if unknown. notes: what is missing, damaged or not shown.
    """

    folder: Path
    state: str
    reason: str
    status: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    started: list[dict[str, str]] = field(default_factory=list)
    metrics: Columns = field(default_factory=dict)
    monitor: Columns = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    performance: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    evaluations: list[Evaluated] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def task(self) -> str:
        """The training task, e.g. train_flow. Without a status, it is guessed from the folder's name."""
        word = re.fullmatch(r"\d{8}_\d{6}-([a-z]+)-.*", self.name, re.DOTALL)
        return text(self.status.get("task")) or (f"train_{word[1]}" if word else "")

    @property
    def dataset(self) -> str:
        """Name of the data set. If it has a path, the path's last part is added, e.g. "folder pictures"."""
        name = text(self.status.get("dataset")) or text(self.config.get("dataset"))
        return f"{name} {Path(text(self.config.get('dataset.path'))).name}".strip()

    @property
    def step(self) -> float | None:
        return finite(self.status.get("step"))

    @property
    def progress(self) -> float | None:
        return finite(self.status.get("progress"))

    @property
    def seconds(self) -> float | None:
        """Seconds of training, without evaluations, pictures and checkpoints."""
        return last(self.metrics.get("seconds", []))

    @property
    def train_loss(self) -> float | None:
        return last(self.metrics.get("train_loss", [])) or finite(self.status.get("loss"))

    @property
    def test_loss(self) -> float | None:
        return last(self.metrics.get("test_loss", [])) or finite(self.status.get("test_loss"))

    @property
    def best_test_loss(self) -> float | None:
        return min((loss for loss in self.metrics.get("test_loss", []) if loss is not None), default=self.test_loss)

    @property
    def first_line(self) -> str:
        """The log's first line, which describes data, model and device."""
        return self.log[0] if self.log and "parameters on " in self.log[0] else ""

    @property
    def device(self) -> str:
        return text(self.config.get("device"))

    @property
    def began(self) -> str:
        """Time of the first start in UTC, e.g. "2026-02-08 14:30"; "" if it is unknown."""
        first = self.started[0].get("started") if self.started else None
        try:
            return datetime.fromisoformat(str(self.status.get("started") or first)).strftime("%Y-%m-%d %H:%M")
        except ValueError:
            return ""


def list_runs(experiments_dir: Path) -> list[Path]:
    """Return the run folders, newest first. Runs without a status are included."""
    folders = (path for path in experiments_dir.iterdir() if path.is_dir() and not path.name.startswith("."))
    runs = (path for path in folders if any((path / mark).is_file() for mark in MARKS))
    return sorted(runs, key=lambda path: path.name, reverse=True)


def read_run(folder: Path) -> RunFacts:
    """Read a run folder."""
    notes: list[str] = []

    def attempt(read: Callable[[], Value], otherwise: Value) -> Value:
        try:
            return read()
        except FileNotFoundError as error:
            notes.append(f"{Path(str(error.filename)).name} is missing")
        except (UserError, OSError, ValueError) as error:
            notes.append(text(error).replace(f"{folder}{os.sep}", ""))
        return otherwise

    try:
        status = read_status(folder)
        state = liveness(status)
        reason = DEAD if state == "dead" else text(status.get("reason"))
    except UserError:
        status, state = {}, "unreadable"
        reason = f"{STATUS} {'cannot be read' if (folder / STATUS).exists() else 'is missing'}"
    return RunFacts(
        folder,
        state,
        reason,
        status,
        attempt(lambda: read_config(folder), {}) if (folder / CONFIG).exists() else _missing(CONFIG, notes),
        attempt(lambda: read_starts(folder), []),
        attempt(lambda: read_columns(folder / METRICS), {}),
        attempt(lambda: read_columns(folder / MONITOR), {}) if (folder / MONITOR).exists() else {},
        attempt(lambda: _read_log(folder / LOG), []),
        attempt(lambda: read_yaml(path), {}) if (path := folder / "performance_metrics.txt").is_file() else {},
        attempt(lambda: _read_shape(folder), ()),
        read_evaluations(folder, notes),
        notes,
    )


def _missing(name: str, notes: list[str]) -> dict[str, Any]:
    notes.append(f"{name} is missing")
    return {}


def text(value: Any) -> str:
    """Return a value as one line; an empty string for None."""
    return "" if value is None else " ".join(str(value).split())


def finite(value: Any) -> float | None:
    """Return a finite number, or None for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if usable and math.isfinite(value) else None


def last(values: list[float | None]) -> float | None:
    """Return the last number of a column."""
    return next((value for value in reversed(values) if value is not None), None)


def read_columns(path: Path) -> Columns:
    """Return the columns of a CSV file. Numbers are floats, times are seconds since the first time, the rest is None.

    Raises OSError.
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.DictReader(file, strict=False) if None not in row.values() and None not in row]
    columns = {name: [_cell(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    begin = last(columns["time"][::-1]) if "time" in columns else None
    if begin is not None:
        columns["time"] = [None if time is None else time - begin for time in columns["time"]]
    return columns


def _cell(word: str) -> float | None:
    try:
        value = float(word)
        return value if -1e300 < value < 1e300 else None
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(word).timestamp()
    except ValueError:
        return None


def _read_log(path: Path) -> list[str]:
    """Return the first line and the last lines of a log. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(LOG_BYTES)
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    if len(lines) <= LOG_LINES and size <= LOG_BYTES:
        return lines
    return [head.decode(errors="replace").splitlines()[0], "...", *lines[-LOG_LINES:]]


def _read_shape(folder: Path) -> tuple[int, ...]:
    """Return the shape of the network's input, read from a checkpoint; () if there is none. Raises UserError."""
    facts = sorted((folder / "checkpoints").glob("step_*.yaml"))
    if not facts:
        return ()
    denoiser = read_yaml(facts[-1]).get("denoiser") or {}
    shape = (denoiser.get("space") or {}).get("shape") if isinstance(denoiser, dict) else None
    return tuple(shape) if isinstance(shape, list) and all(isinstance(side, int) for side in shape) else ()
