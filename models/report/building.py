"""Writing of the report: index, comparison and a page for each run and study, from the templates of this package."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from models.errors import UserError
from models.places import PALETTE
from models.processes import cores
from models.progress import duration, progress
from models.report.best import best_of
from models.report.compared import Compared, read_comparisons
from models.report.evaluations import MOST, Evaluated
from models.report.pictures import Album, safe_name
from models.report.reading import RunFacts, list_runs, read_run
from models.report.studies import StudyPage, read_study_page
from models.report.views import Advice, Entry, entry_of, page_of, setting
from models.runs.files import write_text
from models.runs.lookup import find_studies
from models.runs.status import liveness, read_status

HERE = Path(__file__).parent
ASSETS, RUNS, STUDIES = "assets", "runs", "studies"
INDEX, COMPARE, DATA = "index.html", "compare.html", "data.js"


@dataclass
class Report:
    """A report in a folder. `update` writes the index, and the pages of the runs that have changed.

    out: folder of the report. live: whether a server serves the pages, which then reload themselves while runs train.
    """

    experiments_dir: Path
    out: Path
    advice: Advice
    live: bool = False
    _entries: dict[str, tuple[tuple[Any, ...], Entry]] = field(default_factory=dict)
    _compared: list[Compared] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the folder, with the scripts and the style sheet.

        Raises UserError if `out` exists and is not a report, or if `experiments_dir` does not exist.
        """
        out = self.out
        if not self.experiments_dir.is_dir():
            raise UserError(f"`experiments_dir` {self.experiments_dir}: there is no such folder", "train a run first")
        if out.exists() and not (out / ASSETS / "report.css").is_file() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"`out` {out}: exists and is not a report", "name a new folder")
        try:
            (out / RUNS).mkdir(parents=True, exist_ok=True)
            shutil.copytree(HERE / "static", out / ASSETS, dirs_exist_ok=True)
            shutil.copy(PALETTE, out / ASSETS)
        except OSError as error:
            raise UserError(f"`out` {out}: cannot be written ({error.strerror})", "name another folder") from None

    def update(self) -> list[Entry]:
        """Write the pages of new and changed runs, the index and the comparison. Return the entries of the index."""
        folders = [folder for folder in list_runs(self.experiments_dir) if folder.resolve() != self.out.resolve()]
        entries, self._compared = [], read_comparisons(self.experiments_dir, quiet=self.live)
        with progress("pages", len(folders), bar=not self.live) as advance, ThreadPoolExecutor(cores()) as pool:
            for entry in pool.map(self._entry, folders):
                entries.append(entry)
                advance(1)
        self._remove_others(RUNS, {entry.id for entry in entries})
        studies = [self._write_study(folder) for folder in find_studies(self.experiments_dir)]
        self._remove_others(STUDIES, {safe_name(study.name) for study in studies})
        written = None if self.live else f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        common = {
            "entries": entries,
            "studies": [(safe_name(study.name), study) for study in studies],
            "counts": count_states(entries),
            "experiments": str(self.experiments_dir),
            "written": written,
            "root": "",
        }
        self._write(self.out / INDEX, "index.html", {**common, "best": best_of(entries)})
        self._write(self.out / COMPARE, "compare.html", common)
        return entries

    def _entry(self, folder: Path) -> Entry:
        """Return the entry of a run. Its page is written only if the run or its comparisons have changed."""
        compared = [comparison for comparison in self._compared if folder.name in comparison.runs]
        version = (*_version(folder), *(comparison.name for comparison in compared))
        known, entry = self._entries.get(folder.name, (None, None))
        if entry is None or known != version:
            run = read_run(folder)
            if len(compared) > MOST:
                run.notes.append(f"{len(compared) - MOST} of {len(compared)} comparisons, the oldest ones")
            try:
                entry = self._write_run(run, compared[:MOST])
            except Exception as error:  # An error in one run must not prevent the other pages.
                reason = f"its page cannot be made: {type(error).__name__}: {error}"
                print(f"{folder}: {reason}", file=sys.stderr, flush=True)
                entry = self._write_run(RunFacts(folder, "unreadable", reason))
            self._entries[folder.name] = version, entry
        return entry

    def _links_from(self, page: Path) -> Path | None:
        """Return the base folder of a page's links to the run's files; None if there can be no links."""
        if self.live:
            return self.experiments_dir / "report" / RUNS / page.name  # The server's addresses have this form.
        return page if page.resolve().is_relative_to(self.experiments_dir.resolve()) else None

    def _write_run(self, run: RunFacts, compared: Sequence[Compared] = ()) -> Entry:
        folder = self.out / RUNS / safe_name(run.name)
        folder.mkdir(exist_ok=True)
        album = Album(run.folder, folder)
        thumbnail = album.thumbnail()
        page = page_of(run, album, self.advice, self._links_from(folder))
        entry = entry_of(run, thumbnail)
        page["compared"] = compared
        self._write(folder / "index.html", "run.html", {**page, "entry": entry, "root": "../../"})
        write_text(folder / DATA, _script(_data(entry, page)), flush=False)
        _keep_only(folder, album.names | {INDEX, DATA})
        return entry

    def _write_study(self, folder: Path) -> StudyPage:
        page = self.out / STUDIES / safe_name(folder.name)
        page.mkdir(parents=True, exist_ok=True)
        album = Album(folder, page)
        study = read_study_page(folder, album)
        commands = self.advice.commands(folder, "study", study.state, {})
        self._write(page / INDEX, "study.html", {"study": study, "commands": commands, "root": "../../"})
        _keep_only(page, album.names | {INDEX})
        return study

    def _remove_others(self, kind: str, ids: set[str]) -> None:
        """Delete the pages of runs or studies that do not exist any more."""
        for folder in (self.out / kind).glob("*"):
            if folder.name not in ids and (folder / INDEX).is_file():
                shutil.rmtree(folder, ignore_errors=True)

    def _write(self, path: Path, template: str, content: Mapping[str, Any]) -> None:
        html = _environment().get_template(template).render({**content, "live": self.live})
        write_text(path, html.encode(errors="replace").decode(), flush=False)


def _keep_only(folder: Path, names: set[str]) -> None:
    """Delete the files of a page's folder that are not in `names`."""
    for path in folder.iterdir():
        if path.name not in names and not path.name.startswith("."):
            path.unlink(missing_ok=True)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=figure, whole=whole, duration=lambda value: "–" if value is None else duration(value)
    )
    return environment


def figure(value: float | None) -> str:
    """Return a number with four significant digits, "–" for None."""
    return "–" if value is None else f"{value:.4g}"


def whole(value: float | None) -> str:
    """Return a whole number with commas, "–" for None."""
    return "–" if value is None else f"{value:,.0f}"


def _version(folder: Path) -> tuple[str, int, int]:
    """Return a value that changes when a run changes: its state, number of files, and time of the newest change.

    Files in subfolders are replaced, not appended to. A replaced file changes the time of its folder.
    """
    count, newest = 0, 0
    for path, folders, names in os.walk(folder):
        count += len(folders) + len(names)
        for name in ("", *names) if path == str(folder) else ("",):
            with suppress(OSError):  # The file has been replaced meanwhile.
                newest = max(newest, os.lstat(os.path.join(path, name)).st_mtime_ns)
    try:
        return liveness(read_status(folder)), count, newest  # A run may become dead without a change of its files.
    except UserError:
        return "unreadable", count, newest


def _data(entry: Entry, page: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a run for the scripts: the charts for its page, and the rest for comparisons."""
    run: RunFacts = page["run"]
    picture = page["sheets"][-1] if page["sheets"] else None
    noise = {"seed": setting(run.config.get("seed")), "shape": "×".join(map(str, run.shape))}
    return {
        "id": entry.id,
        "name": run.name,
        "line": page["line"],
        "state": run.state,
        "loss": entry.loss,
        "dataset": run.dataset,
        "settings": {str(key): setting(value) for key, value in run.config.items()},
        "charts": page["charts"],
        "sheet": picture and {"source": picture.source, "width": picture.width, "height": picture.height},
        "noise": noise | {"kind": setting(run.config.get("initial_noise", "gaussian"))}
        if run.task != "train_vae"
        else None,
        "evaluations": [_comparable(evaluated) for evaluated in run.evaluations if evaluated.task == "samples"],
        "comparisons": [asdict(compared) for compared in page["compared"]],
    }


def _comparable(evaluated: Evaluated) -> dict[str, Any]:
    keys = ("name", "label", "value", "low", "high", "shown", "floor", "better")
    measures = [{key: getattr(measure, key) for key in keys} for measure in evaluated.measures]
    return {"title": evaluated.title, "protocol": evaluated.protocol, "measures": measures}


def _script(data: Mapping[str, Any]) -> str:
    """Return a script that hands data to the page. No text in it can end the script or the JSON."""
    return "report.add(" + json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c") + ");\n"


def count_states(entries: Sequence[Entry]) -> str:
    """Return the number of runs in each state, e.g. "12 runs: 9 finished, 3 failed"."""
    states = [entry.state for entry in entries]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{len(states)} run{'s' * (len(states) != 1)}" + (f": {counts}" if counts else "")
