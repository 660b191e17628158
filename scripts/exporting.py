"""Packs a trained run into one folder that is a run on any machine: settings, a checkpoint and what its space needs."""

from __future__ import annotations

import shutil

from models import checkpoint
from models.build import NEEDED, Loaded
from models.errors import UserError
from models.run import CONFIG, STATUS, write_text
from scripts.sampling import new_folder, run_of

COPIED = (CONFIG, STATUS, "environment.txt")


def export_run(loaded: Loaded, out: str) -> None:
    """Writes the folder `out` and prints it. Raises UserError where it is in use, or the model lies in no run."""
    run = run_of(loaded.path)
    if run is None or not (run / STATUS).is_file():
        raise UserError(f"--export packs a run, and {loaded.path} lies in none")
    with new_folder(out, loaded.path, "exported", "", "--export") as folder:
        for name in COPIED:
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
        checkpoint.copy(loaded.path, folder / "checkpoints")
        write_text(folder / "checkpoints" / checkpoint.LAST, loaded.path.name + "\n")
        for path in loaded.space.needs:
            checkpoint.copy(path, folder / NEEDED)
