"""The work of `export`: a trained run as one HTML file, as ONNX, or as a folder that works on any machine."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.errors import UserError
from models.export.card import build_card
from models.export.onnx import write_onnx
from models.export.page import PageModel, build_page
from models.generation import Sampling, Solver, choose_solver
from models.model import Model, Student, has_raw_weights, load_model
from models.progress import progress
from models.runs import checkpoints
from models.runs.environment import ENVIRONMENT, read_starts
from models.runs.files import write_text
from models.runs.lookup import CONFIG, NEEDED, find_run, read_config
from models.runs.status import STATUS
from scripts.cli.early import check_writable
from scripts.cli.flags import ModelFlags
from scripts.cli.terminal import tell
from scripts.tasks.protocol import stored_facts
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

COPIED = (CONFIG, STATUS, ENVIRONMENT)
KIND = "exported"  # Subfolder of a run for its exports.


def export(flags: ExportFlags) -> None:
    """Write the export that `--to` names and print its path. Raises UserError."""
    _check_packages(flags.to)
    chosen = resolve_model(ModelFlags(**vars(flags.model), device="cpu", precision="float32"))
    model = open_model(find_checkpoint(chosen), chosen)
    {"html": _export_page, "onnx": _export_onnx, "folder": export_run}[flags.to](
        model, flags.out, chosen.experiments_dir
    )


def export_run(model: Model, out: str | None, experiments_dir: str, flag: str = "--out") -> None:
    """Write the run as a folder and print its name. Raises UserError if the model is not in a run.

    The folder gets settings, one checkpoint, the autoencoder if there is one, and a model card. experiments_dir: holds
    the results of shipped models. flag: the flag that sets `out`, for error messages.
    """
    path = _path_of(model)
    run = run_of(path)
    if run is None or not (run / STATUS).is_file():
        raise UserError(f"`export` packs a run, and {path} is not in one", "name a run with `run`")
    with new_folder(out, path, experiments_dir, KIND, "folder", flag) as folder:
        for name in COPIED:
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
        checkpoints.copy_checkpoint(path, folder / "checkpoints")
        write_text(folder / "checkpoints" / checkpoints.LAST, path.name + "\n")
        for autoencoder in model.space.needs:
            checkpoints.copy_checkpoint(autoencoder, folder / NEEDED)
        starts = read_starts(run) if (run / ENVIRONMENT).is_file() else []
        card = build_card(model, run.name, _config_of(path), starts, has_raw_weights(path))
        write_text(folder / "README.md", card)


def _export_page(model: Model, out: str | None, experiments_dir: str) -> None:
    file = _new_file(model, out, experiments_dir)
    shown, teacher = _shown(model, Path(experiments_dir))
    with progress("exporting", None):
        write_text(file, build_page(shown, teacher))
    print(file)


def _shown(model: Model, experiments_dir: Path) -> tuple[PageModel, PageModel | None]:
    """Return the model of a page and, for a student, its teacher. Prints whether the teacher was found."""
    path, student = _path_of(model), model.spec.student
    if student is None:  # The page opens with few steps, which can be followed one by one.
        return PageModel(model, name_of(path), Sampling("heun", 6, guidance_scale=_guidance_scale(model))), None
    teacher = _find_teacher(student, path, experiments_dir)
    if teacher is None:
        tell(f"the teacher {student.teacher} ({student.sha256[:12]}) is not found: the page shows the student alone")
    else:
        tell(f"the teacher {teacher.run} is in the page too, {teacher.sampling.describe()}")
    return PageModel(model, name_of(path), Sampling(*choose_solver(model.spec))), teacher


def _find_teacher(student: Student, path: Path, experiments_dir: Path) -> PageModel | None:
    """Return the teacher of a student, with the sampler that the student imitates. None if its checkpoint is not found.

    path: checkpoint of the student. The teacher is looked for beside the student's run and in experiments_dir.
    """
    run = run_of(path)
    folders = [] if run is None else [run.parent / student.teacher]
    with suppress(UserError):
        folders.append(find_run(student.teacher, experiments_dir))
    found = checkpoints.find_by_hash(student.sha256, [folder / "checkpoints" for folder in folders])
    if found is None:
        return None
    config = stored_facts(path)["config"]
    model = load_model(found, config["weights"], torch.device("cpu"))
    settings = {name: config[name] for name in ("sampler", "steps", "grid", "guidance_scale")}
    return PageModel(model, name_of(found), Sampling(**settings, guidance_interval=tuple(config["guidance_interval"])))


def _export_onnx(model: Model, out: str | None, experiments_dir: str) -> None:
    path = _path_of(model)
    solver = choose_solver(model.spec, usual=Solver("heun", 12))  # Exported samplers must add no noise.
    sampling = Sampling(*solver, guidance_scale=_guidance_scale(model))
    sampling.check(model)
    with new_folder(out, path, experiments_dir, KIND, "onnx") as folder:
        write_onnx(model, folder, name_of(path), sampling)


def _check_packages(to: str) -> None:
    """Raise UserError if ONNX is asked for and a package that writes it is not installed."""
    missing = [name for name in ("onnx", "onnxscript") if to == "onnx" and find_spec(name) is None]
    if missing:
        install = shlex.join([sys.executable, "-m", "pip", "install", *missing])
        raise UserError(f"--to onnx: needs the packages {' and '.join(missing)}", f"type: {install}")


def _path_of(model: Model) -> Path:
    assert model.origin is not None
    return model.origin.path


def _config_of(path: Path) -> dict[str, Any]:
    """Return the settings of a checkpoint's run. An empty dict if they are missing."""
    run = run_of(path)
    return {} if run is None or not (run / CONFIG).is_file() else read_config(run)


def _guidance_scale(model: Model) -> float:
    """Return the guidance scale of the run's sample sheets; 1 for a student or without labels."""
    if model.spec.student is not None or model.spec.classes == 0:
        return 1.0
    return float(_config_of(_path_of(model)).get("guidance_scale", 1.0))


def _new_file(model: Model, out: str | None, experiments_dir: str) -> Path:
    """Return the HTML file to write. Raises UserError if `out` exists or its folder does not."""
    if out is None:
        assert model.origin is not None
        path, step, weights = model.origin
        stem = f"{name_of(path).replace('/', '-')}-step_{step:08d}-{weights}"
        folder = folder_in_run(path, experiments_dir, None, KIND)
        names = (f"{stem}{'' if count == 1 else f'-{count}'}.html" for count in range(1, 1000))
        return next(folder / name for name in names if not (folder / name).exists())
    file = Path(out).absolute()
    if file.suffix != ".html":
        raise UserError(f"--out {out}: does not end in .html")
    if file.exists():
        raise UserError(f"--out {out} is there already: name a new file")
    if not file.parent.is_dir():
        raise UserError(f"--out {out}: its folder does not exist")
    check_writable(file)
    return file
