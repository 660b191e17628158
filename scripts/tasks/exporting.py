"""The work of `export`: a trained run as one HTML file, as ONNX, or as a folder that works on any machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import UserError
from models.model import Model
from models.runs import checkpoints
from models.runs.files import write_text
from models.runs.lookup import CONFIG, NEEDED, read_config
from models.runs.status import STATUS
from scripts.cli.flags import ModelFlags
from scripts.tasks.sampling import (
    find_checkpoint,
    folder_in_run,
    name_of,
    new_folder,
    open_model,
    resolve_model,
    run_of,
)

if TYPE_CHECKING:
    from scripts.export import ExportFlags

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


def export(flags: ExportFlags) -> None:
    """Write the export that `--to` names and print its path. Raises UserError."""
    chosen = resolve_model(ModelFlags(**vars(flags.model), device="cpu", precision="float32"))
    path = find_checkpoint(chosen)
    model = open_model(path, chosen)
    if flags.to == "html":
        _export_page(model, path, flags.out)


def _export_page(model: Model, path: Path, out: str | None) -> None:
    from models.export.page import build_page

    file = _new_file(path, out, model)
    text = build_page(model, name_of(path), _guidance_scale(path))
    write_text(file, text)
    print(file)


def _guidance_scale(path: Path) -> float:
    """Return the guidance scale of the run's sample sheets."""
    run = run_of(path)
    return float(read_config(run).get("guidance_scale", 1.0)) if run is not None and (run / CONFIG).is_file() else 1.0


def _new_file(path: Path, out: str | None, model: Model) -> Path:
    """Return the HTML file to write. Raises UserError if `out` exists or its folder does not."""
    if out is None:
        assert model.origin is not None
        stem = f"{name_of(path)}-step_{model.origin.step:08d}-{model.origin.weights}"
        folder = folder_in_run(path, None, "exported")
        names = (f"{stem}{'' if count == 1 else f'-{count}'}.html" for count in range(1, 1000))
        return next(folder / name for name in names if not (folder / name).exists())
    file = Path(out).absolute()
    if file.suffix != ".html":
        raise UserError(f"--out {out}: does not end in .html")
    if file.exists():
        raise UserError(f"--out {out} is there already: name a new file")
    if not file.parent.is_dir():
        raise UserError(f"--out {out}: its folder does not exist")
    return file
