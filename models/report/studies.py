"""Contents of a study's folder, for its page. A missing or damaged file leaves a note, and never an exception."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.report.pictures import Album, Picture
from models.runs.status import liveness, read_status

RESULTS, TABLE, PLOT, SHEET, PARETO = "study.json", "table.txt", "plot.png", "samples.png", "pareto.png"
# Names of the pictures, with their titles. Those of a tournament lie in a folder for each model.
PICTURES = {
    "plot.png": "Every measure by cell",
    "samples.png": "Samples from the same noise",
    "pareto.png": "Finalists",
}


@dataclass(frozen=True)
class StudyPage:
    """A study. measures: tables of study.json. tables: texts, for a study without it, by the folder of each model."""

    name: str
    folder: Path
    state: str
    question: str = ""
    trainings: int = 0
    done: int = 0
    measures: Sequence[Mapping[str, Any]] = field(default_factory=list)
    tables: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    runs: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_study_page(folder: Path, album: Album) -> StudyPage:
    """Read a study. album: copies its pictures."""
    notes: list[str] = []
    try:
        state = liveness(read_status(folder))
    except UserError as error:
        state, notes = "unreadable", [str(error)]
    content: Mapping[str, Any] = {}
    try:
        content = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        runs = [row for row in content["trainings"] if isinstance(row["cells"], list)]
        measures = [{**row, "rows": [_row(cell) for cell in row["rows"]]} for row in content["measures"]]
        question = str(content["definition"]["question"])
    except FileNotFoundError:
        runs, measures, question = [], [], ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        notes.append(f"{RESULTS} cannot be read: {type(error).__name__}: {error}")
        runs, measures, question = [], [], ""
    tables = [] if measures else [_table(path) for path in sorted(folder.glob(f"*/{TABLE}"))]
    pictures = [
        picture
        for name, title in PICTURES.items()
        for path in (folder / name, *sorted(folder.glob(f"*/{name}")))
        if (picture := album.add(path, title if path.parent == folder else f"{title} of {path.parent.name}"))
    ]
    done = sum(bool(row.get("run")) and not row.get("failure") for row in runs)
    return StudyPage(
        folder.name, folder, state, question, len(runs), done, measures, tables, pictures, runs, notes + album.missing
    )


def _row(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table row with its numbers as text. Raises KeyError or TypeError for a damaged one."""
    values = [f"{value:.4g}" for value in cell["values"] if value is not None]
    compared = cell["compared"]
    interval = compared and f"{compared['value']:.3g} [{compared['low']:.3g}, {compared['high']:.3g}]"
    mean = "none" if cell["mean"] is None else f"{cell['mean']:.4g}"
    return {"cell": str(cell["cell"]), "mean": mean, "values": ", ".join(values), "compared": interval or "",
            "differs": bool(cell["differs"])}  # fmt: skip


def _table(path: Path) -> tuple[str, str]:
    return path.parent.name, path.read_text(encoding="utf-8", errors="replace")
