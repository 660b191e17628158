"""Comparisons of two evaluations, which `evaluate --compare` writes to comparisons/ in the folder of the runs."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from models.evaluation.measure_names import BETTER, format_measurement, format_value, kind_of
from models.report.evaluations import UNREADABLE, labels_of, measured

COMPARISONS = "comparisons"  # Folder in experiments_dir.


@dataclass(frozen=True)
class MeasureDifference:
    """A measure of two evaluations and its difference, as text. clear: whether the 95 % interval excludes zero."""

    label: str
    one: str
    other: str
    difference: str
    clear: bool
    better: str


@dataclass(frozen=True)
class Compared:
    """A comparison of two evaluations. Each difference is the second value minus the first.

    runs: name of each evaluation's run, "" if the evaluation is in no run folder. evaluations: folder names.
    """

    name: str
    runs: tuple[str, str]
    evaluations: tuple[str, str]
    images: str
    paired: bool
    differences: list[MeasureDifference]


def read_comparisons(experiments_dir: Path, quiet: bool) -> list[Compared]:
    """Return the comparisons of evaluations, newest first. Unless `quiet`, print the names of unreadable files."""
    return list(_readable(sorted((experiments_dir / COMPARISONS).glob("[!.]*.json"), reverse=True), quiet))


def _readable(paths: list[Path], quiet: bool) -> Iterator[Compared]:
    for path in paths:
        try:
            yield _comparison(path)
        except UNREADABLE as error:
            if not quiet:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                print(f"{path}: cannot be read, and is not shown: {reason}", file=sys.stderr, flush=True)


def _comparison(path: Path) -> Compared:
    content = json.loads(path.read_text(encoding="utf-8"))
    one, other = PurePath(content["one"]), PurePath(content["other"])
    labels, differences = labels_of(content["differences"]), []
    for name, row in content["differences"].items():
        low, high = row["low"], row["high"]
        clear = None not in (low, high) and (low > 0 or high < 0)
        shown = "-" if row["value"] is None else format_measurement(name, measured(row))
        first, second = (format_value(name, row[end]) for end in ("one", "other"))
        differences.append(MeasureDifference(labels[name], first, second, shown, clear, BETTER[kind_of(name)]))
    images = str(content["protocol"]["images"])
    runs = _run_of(one), _run_of(other)
    return Compared(path.stem, runs, (one.name, other.name), images, bool(content["paired"]), differences)


def _run_of(evaluation: PurePath) -> str:
    """Return the name of the run if the path is <run>/evaluation/<folder>, "" for any other path."""
    return evaluation.parent.parent.name if evaluation.parent.name == "evaluation" else ""
