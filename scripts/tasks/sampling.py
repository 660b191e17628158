"""What `generate` and its kin share: from flags to a trained model, how to sample it, and the folder to write.

Every mistake is found here, in one line, before anything is computed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

import torch

from models import devices
from models.errors import UserError
from models.generation import Sampling, default_steps
from models.model import WEIGHTS, Model, load_model
from models.runs import checkpoints
from models.runs.lookup import find_run
from models.spaces.latents import find_autoencoder
from models.training.interrupts import Interrupts
from scripts.cli.flags import ModelFlags, SamplerFlags

DENOISING = ("train_ddpm", "train_flow", "train_latent")


def resolve_model(flags: ModelFlags) -> ModelFlags:
    """Every "auto" replaced by what it stands for; the device is made ready."""
    if flags.weights not in WEIGHTS:
        raise UserError(f"--weights {flags.weights}: choose ema or raw")
    device = devices.pick_device(flags.device)
    devices.prepare_device(device)
    return replace(flags, device=str(device), precision=devices.pick_precision(flags.precision, device))


def find_checkpoint(flags: ModelFlags) -> Path:
    """The checkpoint file that the flags name. Raises UserError where there is none."""
    if flags.checkpoint in (checkpoints.LAST, checkpoints.BEST):
        return checkpoints.resolve_checkpoint(
            find_run(flags.run, Path(flags.experiments_dir), DENOISING), flags.checkpoint
        )
    return Path(flags.checkpoint)


def find_every_checkpoint(flags: ModelFlags) -> list[Path]:
    """The checkpoint files of the run that the flags name, oldest first. Raises UserError where there are none."""
    if flags.checkpoint != checkpoints.LAST:
        raise UserError("--every_checkpoint goes with --run, not with --checkpoint")
    run = find_run(flags.run, Path(flags.experiments_dir), DENOISING)
    paths = checkpoints.list_checkpoints(run / "checkpoints")
    if not paths:
        raise UserError(f"{run} has no checkpoint yet")
    return paths


def run_of(path: Path) -> Path | None:
    """The run folder that a checkpoint file lies in, if it lies in one."""
    return path.parent.parent if path.parent.name == "checkpoints" else None


def name_of(path: Path) -> str:
    """What titles call the model of a checkpoint file: its run, or the file itself."""
    run = run_of(path)
    return path.name if run is None else run.name


def describe_model(model: Model) -> str:
    """Return what titles say of a model: its run, step and weights."""
    assert model.origin is not None
    return f"{name_of(model.origin.path)}, step {model.origin.step}, {model.origin.weights} weights"


def open_model(path: Path, flags: ModelFlags) -> Model:
    """Load the model of a checkpoint file. The flags are resolved."""
    autoencoder = None
    if flags.autoencoder is not None:
        autoencoder = find_autoencoder(flags.autoencoder, Path(flags.experiments_dir))
    device, autocast = torch.device(flags.device), devices.autocast_dtype(flags.precision)
    return load_model(path, flags.weights, device, autocast, autoencoder)


def open_sampling(flags: SamplerFlags, model_flags: ModelFlags, model: Model) -> Sampling:
    """Return how to sample a model. Raises UserError for what its schedule, labels or sampler do not allow."""
    options = {name: value for name, value in vars(flags.options).items() if value is not None}
    sampling = Sampling(
        sampler=flags.sampler,
        steps=default_steps(flags.sampler, model.spec.timesteps) if flags.steps is None else flags.steps,
        grid=flags.grid,
        options=options,
        guidance_scale=flags.guidance_scale,
        guidance_interval=flags.guidance_interval,
        guidance_rescale=flags.guidance_rescale,
        clip=flags.clip,
        weak=None if flags.autoguidance is None else _open_weak_model(flags.autoguidance, model_flags),
    )
    sampling.check(model)
    return sampling


def _open_weak_model(name: str, flags: ModelFlags) -> Model:
    """Load the weaker model of autoguidance: a run or a checkpoint file."""
    path = Path(name)
    if path.suffix != ".safetensors":
        path = checkpoints.resolve_checkpoint(find_run(name, Path(flags.experiments_dir), DENOISING))
    return open_model(path, flags)


def folder_in_run(path: Path, out: str | None, kind: str) -> Path:
    """--out, else `<run>/<kind>` in the run of the checkpoint file `path`; made if need be. Raises UserError."""
    folder = Path(out).absolute() if out is not None else _own_run(path) / kind
    make_folder(folder)
    return folder


def make_folder(folder: Path, flag: str = "--out") -> None:
    """Makes it where it is missing. Raises UserError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}; name another folder with {flag}") from None


def _own_run(path: Path) -> Path:
    run = run_of(path)
    if run is None:
        raise UserError("--checkpoint outside a run folder: say where to write with --out")
    return run


@contextmanager
def new_folder(out: str | None, path: Path, kind: str, words: str, flag: str = "--out") -> Iterator[Path]:
    """A folder that appears whole under its name when the block ends, and not at all if it fails or is stopped.

    out: what `flag` names; otherwise `<run>/<kind>/<date>_<time>-<words>` in the run of the checkpoint file `path`.
    Prints its name.
    """
    if out is not None:
        final = Path(out).resolve()
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise UserError(f"{flag} {final} is there already and not an empty folder: name a new one")
    else:
        final = _own_run(path) / kind / f"{datetime.now():%Y%m%d_%H%M%S}-{words}"
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write in {final.parent}: {error.strerror}; name another folder with {flag}") from None
    try:
        with Interrupts(at_once=True):
            yield partial
        final = _rename(partial, final, out is None)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    print(final)


def _rename(partial: Path, final: Path, numbered: bool) -> Path:
    """Gives the finished folder its name; where another of this second has it already, a number is added."""
    for count in range(1, 1000):
        place = final if count == 1 else final.with_name(f"{final.name}-{count}")
        try:
            partial.rename(place)  # an empty folder of that name is replaced, any other refused
            return place
        except OSError:
            if not numbered:
                raise
    raise UserError(f"{final.parent} holds a thousand folders of this second")
