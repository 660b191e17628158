"""What `reconstruct` and `encode_dataset` share: a trained autoencoder, and the images that it is to see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro
from torch import Tensor

from data import ImageData
from models import devices
from models.autoencoders.autoencoder import Autoencoder, load_autoencoder
from models.errors import UserError
from models.model import WEIGHTS
from models.runs import checkpoints
from models.runs.lookup import find_run
from models.variants import DATA_SETS
from scripts.cli.arguments import check_positive, last_value, put_before
from scripts.cli.flags import SourceFlags, experiments_dir, one_of
from scripts.tasks.protocol import stored_facts
from scripts.tasks.training import load_data


def options_of(dataset: str | None) -> Callable[..., Any]:
    return DATA_SETS.find(dataset) if dataset else _no_options


def _no_options() -> None:
    """Of a data set that is not known yet."""


@dataclass(frozen=True)
class CodingFlags:
    """Which autoencoder, and on which images."""

    variants: ClassVar = {"dataset": options_of}

    run: str = "latest"
    """The run of train_vae: its folder, its name, or latest."""
    checkpoint: str = "last"
    """last, best, or a checkpoint file, which then needs no run."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Where runs are looked for by name; the variable EXPERIMENTS_DIR sets its default."""
    dataset: Annotated[str | None, one_of(DATA_SETS.names())] = None
    """A data set with images of the same shape. Default: the run's own."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    batch_size: int = 500
    """Images at a time."""


def open_autoencoder(argv: Sequence[str]) -> tuple[Autoencoder, list[str]]:
    """The autoencoder that the arguments name, on the CPU, and the arguments with its run's data set before them.

    Read before all other flags, since the run's own data set decides how those are to be understood.
    """
    which = last_value(argv, "checkpoint") or checkpoints.LAST
    if which in (checkpoints.LAST, checkpoints.BEST):
        place = Path(last_value(argv, "experiments_dir") or experiments_dir())
        path = checkpoints.resolve_checkpoint(
            find_run(last_value(argv, "run") or "latest", place, task="train_vae"), which
        )
    else:
        path = Path(which)
    weights = last_value(argv, "weights") or "ema"
    if weights not in WEIGHTS:
        raise UserError(f"--weights {weights}: choose ema or raw")
    model = load_autoencoder(path, weights)
    config = stored_facts(path)["config"]
    own = {key: config[key] for key in config if key in ("dataset", "data_root") or key.startswith("dataset.")}
    return model, put_before(own, argv)


def asks_for_help(argv: Sequence[str]) -> bool:
    """Help is for those, too, who have no run yet."""
    return not {"-h", "--help"}.isdisjoint(argv)


def place_autoencoder(flags: CodingFlags, model: Autoencoder) -> torch.device:
    """The device, with the autoencoder on it. Raises UserError."""
    check_positive(flags, "batch_size")
    device = devices.pick_device(flags.device)
    devices.prepare_device(device)
    model.network.to(device)
    return device


def load_images(flags: CodingFlags, model: Autoencoder) -> ImageData:
    """The data set of the flags. Raises UserError for images of another shape."""
    dataset = load_data(flags)
    mine, other = model.spec.shape, tuple(dataset.train.images.shape[1:])
    if mine != other:
        raise UserError(f"--dataset {flags.dataset}: its images are {dims(other)}, and {model.path} takes {dims(mine)}")
    return dataset


def read_images(files: Sequence[str], shape: tuple[int, int, int]) -> Tensor:
    """Image files as uint8 (N, C, H, W), grey or in colour as the shape says. Raises UserError for another size."""
    from data.readers.pictures import BROKEN, Target, decode

    images = []
    for file in files:
        try:
            image = torch.tensor(decode(Path(file).read_bytes(), Target(None, shape[0], crop=False)))
        except BROKEN as error:
            raise UserError(f"--image {file} cannot be read as an image: {' '.join(str(error).split())}") from None
        if image.shape != shape:
            mine, other = dims(shape[1:]), dims(image.shape[1:])
            raise UserError(f"--image {file} is {other} (height x width), and the autoencoder takes {mine}")
        images.append(image)
    return torch.stack(images)


def dims(shape: Sequence[int]) -> str:
    """1x28x28."""
    return "x".join(map(str, shape))
