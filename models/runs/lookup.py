"""Run folders by name, and the settings that they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.errors import UserError
from models.runs.status import STATUS, read_status
from models.runs.yaml_files import read_yaml

CONFIG = "config.txt"
NEEDED = "autoencoder"  # Folder of a run with a copy of the checkpoint that its space needs.


def find_runs(experiments_dir: Path) -> list[Path]:
    """The run folders in experiments_dir, newest first (their names begin with the time)."""
    return sorted((path.parent for path in experiments_dir.glob(f"*/{STATUS}")), reverse=True)


def find_run(wanted: str, experiments_dir: Path, task: str | tuple[str, ...] = (), dataset: str | None = None) -> Path:
    """The run that `wanted` names: "latest" (of the task or tasks and data set given), a folder, or a folder's name.

    Raises UserError where there is none.
    """
    tasks = (task,) if isinstance(task, str) else task
    if wanted == "latest":
        for folder in find_runs(experiments_dir):
            status = read_status(folder)
            if (not tasks or status.get("task") in tasks) and dataset in (None, status.get("dataset")):
                return folder
        kind = " ".join(f"of {word}" for word in (" or ".join(tasks), dataset) if word)
        raise UserError(f"no run {kind + ' ' if kind else ''}in {experiments_dir}: train one, or --experiments_dir")
    for folder in (Path(wanted), experiments_dir / wanted):
        if (folder / STATUS).is_file():
            return folder
    raise UserError(f"no run {wanted!r}: neither a run folder nor one in {experiments_dir} (make status lists them)")


def read_config(folder: Path) -> dict[str, Any]:
    """Every setting of a run, by flag. Raises UserError where there is none or it is not YAML."""
    return read_yaml(folder / CONFIG)
