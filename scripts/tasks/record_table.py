"""Table of experiments/records.md: its rows, the limit on near copies of training images, and how rows are added."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from models import devices
from models.errors import UserError
from models.evaluation.feature_networks import NETWORKS
from models.runs.files import locked, write_text
from models.runs.yaml_files import read_yaml

if TYPE_CHECKING:
    from scripts.record import Plan

MOST_COPIES = 0.02  # Largest share of near copies of training images that the rules allow.
_COPIES = "near_copies_"
COLUMNS = (
    *("date", "data", "minutes", "entry", "device", "images/s"),
    *(f"recognised, {name}" for name in NETWORKS),
    "accuracy score",
    *(f"distance / floor, {name}" for name in NETWORKS),
    *("sampler, NFE", "guidance", "images, seeds", "commit", "command"),
)
HEADER = f"| {' | '.join(COLUMNS)} |"
EMPTY_TABLE = f"{HEADER}\n|{'---|' * len(COLUMNS)}\n"


class Spent(NamedTuple):
    """Training cost of a measured model. The cost of a student includes its teacher's training."""

    seconds: float
    images: int
    parameters: int

    @classmethod
    def of(cls, run: Path) -> Spent:
        """Return the cost of one training run."""
        figures = read_yaml(run / "performance_metrics.txt")
        images = figures["images"]
        return cls(images / figures["images_per_second"], images, figures["parameters"])


class Trained(NamedTuple):
    """Results of one seed. spent: training costs. reports: from `evaluate`. Both have one entry per guidance scale."""

    commit: str
    spent: list[Spent]
    reports: list[dict[str, Any]]


def row(plan: Plan, trained: Sequence[Trained], index: int) -> str:
    """Return one table row: mean and standard deviation over the seeds. index: position in the guidance scales."""
    flags, reports = plan.flags, [of_seed.reports[index] for of_seed in trained]
    spent = [of_seed.spent[index] for of_seed in trained]
    student = f", student for {100 * flags.student:g} % of the time" if flags.student else ""
    sampler = f"student of {flags.sampler} {flags.steps}" if flags.student else f"{flags.sampler} {flags.steps}"
    device = torch.device(reports[0]["samples"]["device"])
    nfe = statistics.mean(report["samples"]["nfe"] for report in reports)
    cells = (
        f"{datetime.now(UTC):%Y-%m-%d}",
        flags.dataset,
        f"{max(training.seconds for training in spent) / 60:.2f}",
        f"recipe {plan.recipe}, {spent[0].parameters / 1e6:.2f} M{student}",
        devices.describe_device(device),
        mean_and_deviation([training.images / training.seconds for training in spent], 0),
        *(
            f"{mean_and_deviation([100 * _value(report, f'recognised_{name}') for report in reports], 2)} %"
            for name in NETWORKS
        ),
        f"{mean_and_deviation([100 * _value(report, 'cas') for report in reports], 2)} %",
        *(mean_and_deviation([_over_floor(report, f"fd_{name}") for report in reports], 2) for name in NETWORKS),
        f"{sampler}, {nfe:g}",
        f"{flags.scales[index]:g}",
        f"{flags.num_images}, seeds {' '.join(map(str, flags.seeds))}",
        ", ".join(sorted({of_seed.commit for of_seed in trained})),
        f"`{plan.command()}`",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def refuse_copies(reports: Sequence[dict[str, Any]]) -> None:
    """Raise UserError if significantly more samples than the rules allow are near copies of training images."""
    for report in reports:
        shares = {name: result["found"] for name, result in report["results"].items() if name.startswith(_COPIES)}
        for name, share in shares.items():
            if share["low"] > MOST_COPIES:
                raise UserError(
                    f"{100 * share['value']:.1f} % of the images are near copies of training images, measured in "
                    f"{name.removeprefix(_COPIES)}, but the rules allow {100 * MOST_COPIES:.0f} %: no row was written"
                )


def _value(report: dict[str, Any], prefix: str, column: str = "found") -> float:
    (result,) = (result for name, result in report["results"].items() if name.startswith(prefix))
    return result[column]["value"]


def _over_floor(report: dict[str, Any], prefix: str) -> float:
    floor = _value(report, prefix, "floor")
    return _value(report, prefix) / floor if floor > 0 else math.inf


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Return the mean as text. With several values, the standard deviation follows it."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table_of(path: Path) -> tuple[str, str]:
    """Return the text of the records up to the end of the table, and the rest. Without a file, the table is empty.

    Raises UserError if the file has no such table or several.
    """
    if not path.parent.is_dir():
        raise UserError(f"`records` {path}: there is no folder {path.parent}")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else EMPTY_TABLE
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`records` {path} cannot be read: {error}") from None
    lines = text.splitlines(keepends=True)
    headers = [index for index, line in enumerate(lines) if line.strip() == HEADER]
    if len(headers) != 1:
        raise UserError(f"`records` {path}: must have one table with the columns {', '.join(COLUMNS)}")
    end = next((k for k in range(headers[0], len(lines)) if not lines[k].startswith("|")), len(lines))
    return "".join(lines[:end]).rstrip("\n") + "\n", "".join(lines[end:])


def add_rows(path: Path, rows: Sequence[str]) -> None:
    """Add rows to the end of the table. The rest of the file does not change."""
    with locked(path.parent):  # Another process may write at the same time.
        table, rest = table_of(path)
        write_text(path, table + "".join(rows) + rest)
