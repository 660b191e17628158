"""Packs a trained run into one folder that is a run on any machine: settings, a checkpoint and what its space needs."""

from __future__ import annotations

import shutil

from models.errors import UserError
from models.model import Model
from models.runs import checkpoints
from models.runs.files import write_text
from models.runs.lookup import CONFIG, NEEDED
from models.runs.status import STATUS
from scripts.tasks.sampling import new_folder, run_of

COPIED = (CONFIG, STATUS, "environment.txt")


def export_run(loaded: Model, out: str) -> None:
    """Writes the folder `out` and prints it. Raises UserError where it is in use, or the model lies in no run."""
    run = run_of(loaded.path)
    if run is None or not (run / STATUS).is_file():
        raise UserError(f"--export packs a run, and {loaded.path} lies in none")
    with new_folder(out, loaded.path, "exported", "", "--export") as folder:
        for name in COPIED:
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
        checkpoints.copy_checkpoint(loaded.path, folder / "checkpoints")
        write_text(folder / "checkpoints" / checkpoints.LAST, loaded.path.name + "\n")
        for path in loaded.space.needs:
            checkpoints.copy_checkpoint(path, folder / NEEDED)
