"""Code shared by the tasks that sample a model: open the model, its sampling settings and the output folder.

All settings are checked before any image is generated.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import torch

from models import devices
from models.class_names import LISTED, numbered, shorten_names
from models.distributed import run_on_rank_zero
from models.errors import UserError
from models.generation import MANY_STEPS, Sampling, Solver, choose_solver, named_labels
from models.model import Model, load_model
from models.progress import progress
from models.runs import checkpoints
from models.runs.lookup import DENOISING, find_run, is_shipped, results_folder, run_name
from models.runs.status import liveness, read_status
from models.spaces.latents import find_autoencoder
from models.training.interrupts import Interrupts
from scripts.cli.flags import ModelFlags, SamplerFlags
from scripts.cli.terminal import tell

FILM_FRAMES = 40  # Number of frames in an animation of the reverse process.


def resolve_model(flags: ModelFlags) -> ModelFlags:
    """Replace "auto" by an actual device and precision, and prepare the device. Raises UserError."""
    device = devices.pick_device(flags.device)
    devices.prepare_device(device)
    return replace(flags, device=str(device), precision=devices.pick_precision(flags.precision, device))


def find_checkpoint(flags: ModelFlags) -> Path:
    """Return the checkpoint file that the flags name. Raises UserError if the run is missing or has no checkpoint.

    All processes get the same file, also if the run still trains and saves another one meanwhile.
    """
    if flags.checkpoint not in (checkpoints.LAST, checkpoints.BEST):
        return Path(flags.checkpoint)
    return run_on_rank_zero(lambda: checkpoints.resolve_checkpoint(_find_run(flags.run, flags), flags.checkpoint))


def find_every_checkpoint(flags: ModelFlags) -> list[Path]:
    """Return the run's checkpoint files, oldest first, the same in all processes.

    Raises UserError if there are none or --checkpoint is set.
    """
    if flags.checkpoint != checkpoints.LAST:
        raise UserError(f"--checkpoint {flags.checkpoint}: --every_checkpoint takes all; leave out --checkpoint")

    def find() -> list[Path]:
        run = _find_run(flags.run, flags)
        paths = checkpoints.list_checkpoints(run / "checkpoints")
        if not paths:
            raise UserError(f"{run} has no checkpoint yet")
        return paths

    return run_on_rank_zero(find)


def _find_run(name: str, flags: ModelFlags) -> Path:
    return find_trained(name, flags.experiments_dir, DENOISING)


def find_own_or_shipped(name: str, experiments_dir: str, tasks: str | tuple[str, ...]) -> Path:
    """Return a run folder or a shipped model, as `find_run` does. Raises UserError.

    Prints a message if a shipped model is used although it was not named.
    """
    run = find_run(name, Path(experiments_dir), tasks, or_shipped=True)
    if is_shipped(run) and "/" not in name:
        tell(f"no run in {experiments_dir} fits {name!r}: {run_name(run)} is used, which comes with the repository")
    return run


def find_trained(name: str, experiments_dir: str, tasks: str | tuple[str, ...]) -> Path:
    """Return a run folder as `find_own_or_shipped` does. Print a message if the run still trains. Raises UserError."""
    run = find_own_or_shipped(name, experiments_dir, tasks)
    status = read_status(run)
    if liveness(status) == "running":
        done = f"step {status.get('step')}, {status.get('progress') or 0:.0%} done"
        tell(f"{run.name} is still training ({done}): its current checkpoint is used")
    return run


def run_of(path: Path) -> Path | None:
    """Return the run folder of a checkpoint file; None if the file is not in a run."""
    return path.parent.parent if path.parent.name == "checkpoints" else None


def name_of(path: Path) -> str:
    """Return the name of a checkpoint for titles: the name of its run, or the file name if it is not in a run."""
    run = run_of(path)
    return path.name if run is None else run_name(run)


def describe_model(model: Model) -> str:
    """Return a model's run, step and weights, for titles."""
    assert model.origin is not None
    return f"{name_of(model.origin.path)}, step {model.origin.step}, {model.origin.weights} weights"


def describe_sampling(sampling: Sampling) -> str:
    """Return the settings of sampling, with the weaker model of autoguidance, for titles."""
    weak = f" away from {describe_model(sampling.weak)}" if sampling.weak is not None else ""
    return f"{sampling.describe()}{weak}"


def open_model(path: Path, flags: ModelFlags) -> Model:
    """Load the model of a checkpoint file. flags: from `resolve_model`. Raises UserError."""
    autoencoder = None
    if flags.autoencoder is not None:
        autoencoder = find_autoencoder(flags.autoencoder, Path(flags.experiments_dir))
    device, autocast = torch.device(flags.device), devices.autocast_dtype(flags.precision)
    return load_model(path, flags.weights, device, autocast, autoencoder)


def open_sampling(flags: SamplerFlags, model_flags: ModelFlags, model: Model, usual: Solver | None = None) -> Sampling:
    """Return the sampling settings for a model. usual: default sampler and number of steps, as for `choose_solver`.

    If sampler options are given without a sampler, the default is MANY_STEPS. Raises UserError if the settings do not
    fit the sampler, or the model's noise schedule or labels.
    """
    weak = None
    options = {name: value for name, value in vars(flags.options).items() if value is not None}
    if flags.autoguidance is not None:
        path = Path(flags.autoguidance)
        if path.suffix != ".safetensors":
            path = checkpoints.resolve_checkpoint(_find_run(flags.autoguidance, model_flags))
        weak = open_model(path, model_flags)
    sampling = Sampling(
        *choose_solver(model.spec, flags.sampler, flags.steps, MANY_STEPS if options else usual),
        grid=flags.grid,
        options=options,
        guidance_scale=flags.guidance_scale,
        guidance_interval=flags.guidance_interval,
        guidance_rescale=flags.guidance_rescale,
        clip=flags.clip,
        weak=weak,
    )
    sampling.check(model)
    return sampling


def tell_sampling(flags: SamplerFlags, sampling: Sampling, model: Model) -> None:
    """Print how images are sampled if the flags do not say it: by a student, or by the default sampler."""
    if model.spec.student is not None:
        tell(model.spec.student.describe())
    elif flags.sampler is None:
        tell(f"by default: --sampler {sampling.sampler} --steps {sampling.steps}")


class Chosen(NamedTuple):
    """Labels of --labels (None without this flag), and messages about the classes that are chosen or left out."""

    labels: list[int] | None
    lines: list[str]

    def tell(self) -> None:
        """Print the lines. Called after all checks, so that an error message stands alone."""
        for line in self.lines:
            tell(line)


def read_labels(words: Sequence[str] | None, model: Model) -> Chosen:
    """Find the classes of --labels. Raises UserError if the model does not have such a class."""
    if words is None:
        lost = shorten_names(model.spec.class_names[label] for label in model.spec.untrained)
        return Chosen(None, [f"classes left out since the model saw no training image of them: {lost}"] if lost else [])
    labels, notes = named_labels(model, words)
    distinct = [numbered(model.spec.class_names, label) for label in dict.fromkeys(labels)]
    return Chosen(labels, [*notes, f"classes: {shorten_names(distinct, LISTED)}"])


def folder_in_run(path: Path, experiments_dir: str, out: str | None, kind: str) -> Path:
    """Create the folder `out` and return it. Default: `<run>/<kind>` in the run of the checkpoint file `path`.

    experiments_dir: holds the results of shipped models. Raises UserError if the folder cannot be written, or if `out`
    is None and the file is not in a run.
    """
    folder = Path(out).absolute() if out is not None else _run_to_write(path, experiments_dir) / kind
    make_folder(folder)
    return folder


def make_folder(folder: Path, flag: str = "--out") -> None:
    """Create a folder if it is missing. flag: the option that sets it. Raises UserError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; name another folder with {flag}") from None


def _run_to_write(path: Path, experiments_dir: str) -> Path:
    run = run_of(path)
    if run is None:
        raise UserError(f"{path} is not in a run folder: name an output folder with --out")
    return results_folder(run, Path(experiments_dir).absolute())


@contextmanager
def new_folder(
    out: str | None, path: Path, experiments_dir: str, kind: str, words: str, flag: str = "--out"
) -> Iterator[Path]:
    """Yield a hidden folder to write. At the end of the block, rename it to its final name and print that name.

    If the block fails or is interrupted, the folder is deleted. out: the final name, from the option `flag`; by
    default `<run>/<kind>/<date>_<time>-<words>` in the run of the checkpoint file `path`. experiments_dir: holds the
    results of shipped models. Raises UserError.
    """
    if out is not None:
        final = Path(out).resolve()
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise UserError(f"{flag} {final} exists and is not an empty folder: name a new one")
    else:
        final = _run_to_write(path, experiments_dir) / kind / f"{datetime.now():%Y%m%d_%H%M%S}-{words}"
    make_folder(final.parent, flag)
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        with Interrupts(at_once=True), progress(kind, None):
            yield partial
        final = _rename(partial, final, out is None)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    print(final)


def _rename(partial: Path, final: Path, numbered: bool) -> Path:
    """Rename a folder and return its name. numbered: append a number if that name exists already."""
    for count in range(1, 1000):
        target = final if count == 1 else final.with_name(f"{final.name}-{count}")
        try:
            partial.rename(target)  # replaces an empty folder; raises OSError if the folder has files
            return target
        except OSError:
            if not numbered:
                raise
    raise UserError(f"{final.parent} has no free name: {final.name}-2 to {final.name}-999 exist")
