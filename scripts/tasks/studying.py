"""The work of `study`: open the study's folder, run its trainings, report progress and write the results."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from models.errors import UserError
from models.places import EXPERIMENTS
from models.progress import duration
from models.runs.files import write_text
from models.runs.lookup import STUDIES_FOLDER
from models.runs.run import Run
from models.runs.status import STATUS, utc_now
from models.training.interrupts import Interrupts
from scripts.cli.arguments import to_arguments, to_config
from scripts.cli.command import ending
from scripts.cli.terminal import tell
from scripts.tasks.studies import STUDIES
from scripts.tasks.study_cells import LOGS, Places, finished_runs, is_done, log_of, report_of, run_trainings
from scripts.tasks.study_plan import Study, Tournament, Training, as_yaml, read_study
from scripts.tasks.study_results import draw_study_pictures, write_tables
from scripts.tasks.tournament import run_tournament

if TYPE_CHECKING:
    from scripts.study import StudyFlags

DEFINITION = "study.yaml"


def run_study(name: str, study: Study, flags: StudyFlags) -> Path:
    """Run the trainings of a study that are not done, and write its results. Return the study's folder.

    Raises UserError at the end if a cell has failed for every seed. Everything else has been written by then.
    """
    folder = Path(flags.experiments_dir) / STUDIES_FOLDER / name
    definition = folder / DEFINITION
    if definition.is_file() and (question := read_study(definition).question) != study.question:
        ways = [] if name in STUDIES else ["give the file another name"]
        message = f"{folder} has another study of this name, with the question {question!r}"
        raise UserError(message, *ways, "move the folder away")
    run = _open(folder, _command(flags), study.dataset)
    write_text(definition, yaml.safe_dump(as_yaml(study), sort_keys=False, allow_unicode=True, width=100))
    places = Places(folder, flags.experiments_dir, flags.data_root, flags.device)
    with ending(run):
        failures: dict[str, str] = {}
        _run(study, places, run, flags, failures)
        measures, table = write_tables(folder, study, failures)
        draw_study_pictures(folder, study, measures)
        tell(f"\n{table}\n")
        _refuse_failed(study, folder, failures)
    return folder


def run_samplers(name: str, tournament: Tournament, flags: StudyFlags) -> Path:
    """Play a tournament of samplers, and return its folder. Results of earlier calls are reused."""
    folder = Path(flags.experiments_dir) / STUDIES_FOLDER / name
    run = _open(folder, _command(flags), "")
    with ending(run), Interrupts(at_once=True):
        for table in run_tournament(tournament, folder, run, flags):
            tell(f"\n{table}\n")
    return folder


def _command(flags: StudyFlags) -> str:
    """Return the command that resumes a study, with all flags that differ from the defaults."""
    config, defaults = to_config(flags), to_config(type(flags)())
    defaults["experiments_dir"] = EXPERIMENTS  # The next shell may not have the variable that sets the default.
    words = to_arguments({key: value for key, value in config.items() if value != defaults[key]})
    return f"make study ARGS={shlex.quote(shlex.join(words))}"


def _open(folder: Path, command: str, dataset: str) -> Run:
    """Create or reopen a study's folder. Raises UserError if the study is running. command: resumes the study."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / STATUS).is_file():
            write_text(folder / STATUS, '{"task": "study", "state": "interrupted"}\n')
    except OSError as error:
        raise UserError(f"`experiments_dir`: cannot write in {folder} ({error.strerror})") from None
    run = Run.reopen(folder)
    run.update(command=command, dataset=dataset, started=utc_now())
    return run


def _run(study: Study, places: Places, run: Run, flags: StudyFlags, failures: dict[str, str]) -> None:
    """Run the trainings that are not done. Add the reason of each failure to `failures`, by the training's key."""
    trainings = study.trainings()
    finished = finished_runs(places.folder)
    waiting = {row: cells for row, cells in trainings.items() if not is_done(row, cells, finished)}
    before, total = len(trainings) - len(waiting), len(trainings)
    gpus = _gpus(flags.device)
    jobs = flags.jobs or max(1, len(gpus))
    started, ended = time.monotonic(), 0
    notes = [f"{len(study.cells)} cells, {total} trainings"]
    notes += [f"{before} done before"] if before else []
    notes += [f"{jobs} in parallel"] if jobs > 1 else []
    run.log(f"{study.question} {'; '.join(notes)}; output of the trainings: {places.folder / LOGS}")

    def after(training: Training, code: int) -> None:
        nonlocal ended
        ended += 1
        if code != 0:
            failures[training.key] = _reason(log_of(training, places.folder), code)
        left = (time.monotonic() - started) / ended * (len(waiting) - ended)
        state = f"failed: {failures[training.key]}" if code else "done"
        run.update(step=before + ended, progress=(before + ended) / total)
        run.log(f"{before + ended} of {total}, {training.name}: {state}; {duration(left)} left")
        write_tables(places.folder, study, failures)

    run.update(step=before, progress=before / total)
    run_trainings(waiting, places, jobs, gpus, after)


def _gpus(device: str) -> list[str]:
    """Return a value of CUDA_VISIBLE_DEVICES for each GPU; none if the study runs on a CPU or one named GPU."""
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]


def _reason(log: Path, code: int) -> str:
    """Return why a training failed: the signal that killed it, or the last line of its log without its "error:"."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}{' (out of memory?)' * (code == -signal.SIGKILL)}"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), f"exit code {code}")
    return last.removeprefix("error: ")


def _refuse_failed(study: Study, folder: Path, failures: Mapping[str, str]) -> None:
    """Raise UserError if a cell has no result for any seed."""
    failed: dict[str, str] = {}
    finished = finished_runs(folder)
    for cell in study.cells:
        trainings = [study.training(cell, seed) for seed in study.seeds]
        runs = [finished.get(training.key) for training in trainings]
        if not any(run and report_of(run, cell).is_file() for run in runs):
            reasons = (failures[row.key] for row in trainings if row.key in failures)
            failed[cell.name] = next(reasons, "its evaluations are missing")
    if failed:
        name, reason = next(iter(failed.items()))
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        rest = "; the results contain the other cells" if len(failed) < len(study.cells) else ""
        raise UserError(f"cell {name}{others} failed for every seed: {reason}{rest}")
