"""Finding run folders by name, and reading their settings."""

from pathlib import Path
from typing import Any

from models.errors import UserError
from models.places import expanded
from models.runs.status import STATUS, read_status
from models.runs.yaml_files import read_yaml

CONFIG = "config.txt"
NEEDED = "autoencoder"  # Subfolder of a run, with a copy of the autoencoder checkpoint that the run uses.


def find_runs(experiments_dir: Path) -> list[Path]:
    """Return the run folders in experiments_dir, newest first. Folder names begin with the time."""
    return sorted((path.parent for path in experiments_dir.glob(f"*/{STATUS}")), reverse=True)


def find_run(name: str, experiments_dir: Path, task: str | tuple[str, ...] = (), dataset: str | None = None) -> Path:
    """Return the run folder that `name` refers to. Raises UserError if there is none.

    name: a folder, its name in experiments_dir, or "latest" for the newest run of the task or tasks and the data set.
    """
    tasks = (task,) if isinstance(task, str) else task
    if name == "latest":
        for folder in find_runs(experiments_dir):
            status = read_status(folder)
            if (not tasks or status.get("task") in tasks) and dataset in (None, status.get("dataset")):
                return folder
        kind = "".join(f"of {word} " for word in (" or ".join(tasks), dataset) if word)
        raise UserError(f"no run {kind}in {experiments_dir}", "train one", "give another `experiments_dir`")
    for folder in (Path(expanded(name)), experiments_dir / name):
        if (folder / STATUS).is_file():
            return folder
    raise UserError(f"no run {name!r}: neither a run folder nor one in {experiments_dir}", "list runs with make status")


def read_config(folder: Path) -> dict[str, Any]:
    """Read every setting of a run, by option name. Raises UserError if config.txt is missing or invalid."""
    return read_yaml(folder / CONFIG)
