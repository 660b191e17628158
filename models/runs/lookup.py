"""Finding run folders by name, and reading their settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.places import expanded
from models.runs.status import STATUS, read_status
from models.runs.yaml_files import read_yaml

CONFIG = "config.txt"
MATCHES_SHOWN = 5  # Number of names in the error message if a part of a name is in several.
# The tasks that train a model to sample from, and those whose models know every noise level.
TEACHERS = ("train_ddpm", "train_flow", "train_latent")
DENOISING = (*TEACHERS, "distill")
# Settings that decide what a loss measures. Values in PLAIN are not mentioned.
LOSS_SETTINGS = ("space", "kind", "prediction", "reconstruction", "loss", "weighting")
PLAIN = ("pixels", "uniform", "null", "None")
NEEDED = "autoencoder"  # Subfolder of a run, with a copy of the autoencoder checkpoint that the run uses.


def find_runs(experiments_dir: Path) -> list[Path]:
    """Return the run folders in experiments_dir, newest first. Folder names begin with the time."""
    return sorted((path.parent for path in experiments_dir.glob(f"*/{STATUS}")), reverse=True)


def find_run(name: str, experiments_dir: Path, task: str | tuple[str, ...] = (), dataset: str | None = None) -> Path:
    """Return the run folder that `name` refers to. Raises UserError if there is none, or more than one.

    name: a folder, its name in experiments_dir or a part of that name, "latest" for the newest run of the task or
    tasks and the data set, or "latest:mnist" for the newest on MNIST. If a part is in several names, runs of the task
    and the data set are preferred.
    """
    tasks = (task,) if isinstance(task, str) else task
    word, _, named = name.partition(":")
    if word == "latest":
        dataset = named or dataset
        for folder in find_runs(experiments_dir):
            if _fits(folder, tasks, dataset):
                return folder
        kind = f"of {' or '.join(tasks)} " * bool(tasks) + f"on {dataset} " * bool(dataset)
        raise UserError(f"no run {kind}in {experiments_dir}", "train one", "give another `experiments_dir`")
    for folder in (Path(expanded(name)), experiments_dir / name):
        if (folder / STATUS).is_file():
            return folder
    matches = [folder for folder in find_runs(experiments_dir) if name and name in folder.name]
    if len(matches) > 1:
        matches = [folder for folder in matches if _fits(folder, tasks, dataset)] or matches
    if len(matches) > 1:
        shown = [folder.name for folder in matches[:MATCHES_SHOWN]] + ["..."] * (len(matches) > MATCHES_SHOWN)
        raise UserError(f"{len(matches)} runs match {name!r}: {', '.join(shown)}", "give more of the name")
    if matches:
        return matches[0]
    raise UserError(
        f"no run {name!r}: neither a run folder nor part of a name in {experiments_dir}", "list runs with make status"
    )


def _fits(folder: Path, tasks: tuple[str, ...], dataset: str | None) -> bool:
    status = read_status(folder)
    return (not tasks or status.get("task") in tasks) and dataset in (None, status.get("dataset"))


def read_config(folder: Path) -> dict[str, Any]:
    """Read every setting of a run, by option name. Raises UserError if config.txt is missing or invalid."""
    return read_yaml(folder / CONFIG)


def name_loss(settings: Mapping[str, Any]) -> str:
    """Return the settings that decide what the loss of a run measures, e.g. "eps l2". Only equal losses compare."""
    if "teacher_sha256" in settings:
        return "distance to the teacher"
    words = (str(settings.get(key)) for key in LOSS_SETTINGS)
    return " ".join(word for word in words if word not in PLAIN)
