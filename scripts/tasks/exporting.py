"""Export a trained run as a folder that works on any machine: settings, one checkpoint, and its autoencoder if any."""

import shutil

from models.errors import UserError
from models.model import Model
from models.runs import checkpoints
from models.runs.files import write_text
from models.runs.lookup import CONFIG, NEEDED
from models.runs.status import STATUS
from scripts.tasks.sampling import new_folder, run_of

COPIED = (CONFIG, STATUS, "environment.txt")


def export_run(model: Model, out: str) -> None:
    """Write the folder `out` and print its name. Raises UserError if it is not empty or the model is not in a run."""
    assert model.origin is not None
    path = model.origin.path
    run = run_of(path)
    if run is None or not (run / STATUS).is_file():
        raise UserError(f"`export` packs a run, and {path} is not in one", "name a run with `run`")
    with new_folder(out, path, "exported", "", "--export") as folder:
        for name in COPIED:
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
        checkpoints.copy_checkpoint(path, folder / "checkpoints")
        write_text(folder / "checkpoints" / checkpoints.LAST, path.name + "\n")
        for autoencoder in model.space.needs:
            checkpoints.copy_checkpoint(autoencoder, folder / NEEDED)
