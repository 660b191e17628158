"""Contents of a study's folder, for its page. A damaged file adds a note and raises no exception."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.report.pictures import Album, Picture
from models.runs.status import liveness, read_status

RESULTS, TABLE, PLOT, SHEET, PARETO = "study.json", "table.txt", "plot.png", "samples.png", "pareto.png"
# Names of the pictures, with their titles. A tournament has a subfolder of pictures for each model.
PICTURES = {
    "plot.png": "Every measure by cell",
    "samples.png": "Samples from the same noise",
    "pareto.png": "Finalists",
}


@dataclass(frozen=True)
class StudyPage:
    """A study. tables: folder name and text of each table. runs: the entries of `trainings` in study.json."""

    name: str
    state: str
    question: str
    tables: list[tuple[str, str]]
    pictures: list[Picture]
    runs: list[Mapping[str, Any]]
    notes: list[str]

    @property
    def done(self) -> int:
        """Number of trainings that are finished and measured."""
        return sum(bool(row.get("run")) and not row.get("failure") for row in self.runs)


def read_study_page(folder: Path, album: Album) -> StudyPage:
    """Read a study. album: receives copies of its pictures."""
    notes: list[str] = []
    try:
        state = liveness(read_status(folder))
    except UserError as error:
        state, notes = "unreadable", [str(error)]
    question, runs = "", []
    try:
        content = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        question = str(content["definition"]["question"])
        runs = [row for row in content["trainings"] if isinstance(row["cells"], list)]
    except FileNotFoundError:  # a tournament, or a study that has just begun
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        notes.append(f"{RESULTS} cannot be read: {type(error).__name__}: {error}")
    places = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    tables = []
    for place in places:
        try:
            tables.append((place.name, (place / TABLE).read_text(encoding="utf-8", errors="replace")))
        except FileNotFoundError:
            pass
        except OSError as error:
            notes.append(f"{TABLE} cannot be read: {type(error).__name__}: {error}")
    pictures = [
        picture
        for name, title in PICTURES.items()
        for place in places
        if (picture := album.add(place / name, title if place == folder else f"{title} of {place.name}"))
    ]
    return StudyPage(folder.name, state, question, tables, pictures, runs, [*notes, *album.missing])
