"""Finding run folders by name, and reading their settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.places import PRETRAINED, expanded
from models.runs.status import STATUS, read_status
from models.runs.yaml_files import read_yaml

CONFIG = "config.txt"
MATCHES_SHOWN = 5  # Names shown in the error message if several names match.
# TEACHERS: tasks whose models denoise at every noise level. DENOISING: all tasks that train a model to sample from.
TEACHERS = ("train_ddpm", "train_flow", "train_latent")
DENOISING = (*TEACHERS, "distill")
# Settings that define the loss. `name_loss` leaves out the values in PLAIN.
LOSS_SETTINGS = ("space", "kind", "prediction", "reconstruction", "loss", "weighting")
PLAIN = ("pixels", "uniform", "null", "None")
SHIPPED_PREFIX = "pretrained/"  # Prefix of the names of shipped models, the run folders in models/pretrained.
SHIPPED_DATA = "mnist"  # Data set of the shipped model that is used if there is no run.
STUDIES_FOLDER = "studies"  # Subfolder of experiments_dir, with a folder for each study.
NEEDED = "autoencoder"  # Subfolder of a run, with a copy of the autoencoder checkpoint that the run uses.


def find_runs(experiments_dir: Path) -> list[Path]:
    """Return the run folders in experiments_dir, newest first. Folder names begin with the time."""
    return sorted((path.parent for path in experiments_dir.glob(f"*/{STATUS}")), reverse=True)


def find_studies(experiments_dir: Path) -> list[Path]:
    """Return the folders of the studies in experiments_dir, by name."""
    return sorted(path.parent for path in experiments_dir.glob(f"{STUDIES_FOLDER}/*/{STATUS}"))


def find_run(
    name: str,
    experiments_dir: Path,
    task: str | tuple[str, ...] = (),
    dataset: str | None = None,
    or_shipped: bool = False,
) -> Path:
    """Return the run folder that `name` refers to. Raises UserError if there is none, or more than one.

    name: a folder, its name in experiments_dir or a part of that name, "latest" for the newest run of the given task
    (or tasks) on the data set, "latest:mnist" for the newest on MNIST, or "pretrained/mnist" for a shipped model. If
    several names contain the part, runs of the task on the data set are preferred.

    or_shipped: if there is no such run, return the shipped model called `name`. For "latest", return the shipped model
    of the task and the data set, by default MNIST.
    """
    tasks = (task,) if isinstance(task, str) else task
    word, _, named = name.partition(":")
    if word == "latest":
        dataset = named or dataset
        shipped = [folder for folder in find_shipped() if _fits(folder, tasks, dataset or SHIPPED_DATA)]
        run = next((folder for folder in find_runs(experiments_dir) if _fits(folder, tasks, dataset)), None)
    else:
        shipped = [folder for folder in find_shipped() if folder.name == name]
        run = _find_by_name(name, experiments_dir, tasks, dataset)
    if run is None and or_shipped and shipped:
        return shipped[0]
    if run is None and word == "latest":
        kind = f"of {' or '.join(tasks)} " * bool(tasks) + f"on {dataset} " * bool(dataset)
        raise UserError(f"no run {kind}in {experiments_dir}", "train one", "give another `experiments_dir`")
    if run is None:
        ways = [f"take {SHIPPED_PREFIX}{folder.name}, which comes with the repository" for folder in shipped]
        message = f"no run {name!r}: neither a run folder nor part of a name in {experiments_dir}"
        raise UserError(message, *ways, "list runs with make status")
    return run


def _find_by_name(name: str, experiments_dir: Path, tasks: tuple[str, ...], dataset: str | None) -> Path | None:
    """Return the run folder with this name, path or part of a name. Raises UserError if there are several."""
    for folder in (Path(expanded(name)), experiments_dir / name):
        if (folder / STATUS).is_file():
            return folder
    if name.startswith(SHIPPED_PREFIX):
        names = {f"{SHIPPED_PREFIX}{folder.name}": folder for folder in find_shipped()}
        if name not in names:
            raise UserError(f"no model {name!r} comes with the repository", f"choose from {', '.join(names) or 'none'}")
        return names[name]
    matches = [folder for folder in find_runs(experiments_dir) if name and name in folder.name]
    if len(matches) > 1:
        matches = [folder for folder in matches if _fits(folder, tasks, dataset)] or matches
    if len(matches) > 1:
        shown = [folder.name for folder in matches[:MATCHES_SHOWN]] + ["..."] * (len(matches) > MATCHES_SHOWN)
        raise UserError(f"{len(matches)} runs match {name!r}: {', '.join(shown)}", "give more of the name")
    return matches[0] if matches else None


def find_shipped() -> list[Path]:
    """Return the folders of the shipped models, by name."""
    return sorted(path.parent for path in PRETRAINED.glob(f"[!.]*/{STATUS}"))


def is_shipped(run: Path) -> bool:
    """Return whether a run folder is that of a shipped model."""
    return run.resolve().parent == PRETRAINED


def run_name(run: Path) -> str:
    """Return the name of a run: its folder's name, or pretrained/NAME for a shipped model."""
    return f"{SHIPPED_PREFIX}{run.name}" if is_shipped(run) else run.name


def results_folder(run: Path, experiments_dir: Path) -> Path:
    """Return the folder for results of a run: the run folder, or for a shipped model a folder in experiments_dir."""
    return experiments_dir / run_name(run) if is_shipped(run) else run


def _fits(folder: Path, tasks: tuple[str, ...], dataset: str | None) -> bool:
    status = read_status(folder)
    return (not tasks or status.get("task") in tasks) and dataset in (None, status.get("dataset"))


def read_config(folder: Path) -> dict[str, Any]:
    """Read every setting of a run, by option name. Raises UserError if config.txt is missing or invalid."""
    return read_yaml(folder / CONFIG)


def name_loss(settings: Mapping[str, Any]) -> str:
    """Return the settings that define a run's loss, e.g. "eps l2". Only losses with equal names can be compared."""
    if "teacher_sha256" in settings:
        return "distance to the teacher"
    words = (str(settings.get(key)) for key in LOSS_SETTINGS)
    return " ".join(word for word in words if word not in PLAIN)
