"""Boards: programs that show losses, settings and pictures of runs. TensorBoard, Weights & Biases, or Trackio."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from models.errors import UserError

PROJECT = "small-images"  # Project of the runs in Weights & Biases and Trackio.


class Board(Protocol):
    """Interface of a board. A tag begins with its group, for example loss/test."""

    def add_scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def add_picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Add a picture, uint8 (H, W, 3)."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder tensorboard/. Values that an interrupted run wrote after `step` are hidden."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int, compared: tuple[str, ...]) -> None:
        from torch.utils.tensorboard.summary import hparams
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        for summary in hparams(dict(config), dict.fromkeys(compared)):
            self.writer.file_writer.add_summary(summary)  # pyright: ignore[reportOptionalMemberAccess]

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        self.writer.flush()

    def add_picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        self.writer.add_image(tag, pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Client:
    """Board with the interface of `wandb`, which Trackio shares. A resumed run continues under the same name."""

    package = ""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int, compared: tuple[str, ...]) -> None:
        self.client = importlib.import_module(self.package)
        self.begin(folder, dict(config))

    def begin(self, folder: Path, config: dict[str, Any]) -> None:
        raise NotImplementedError

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        self.client.log(dict(values), step=step)

    def add_picture(self, tag: str, pixels: np.ndarray, step: int) -> None:
        self.client.log({tag: self.client.Image(pixels)}, step=step)

    def close(self) -> None:
        self.client.finish()


class WeightsAndBiases(_Client):
    """Run in Weights & Biases, with the account and the server address for which `wandb` is configured."""

    package = "wandb"

    def begin(self, folder: Path, config: dict[str, Any]) -> None:
        name = folder.name
        self.client.init(project=PROJECT, name=name, id=name, resume="allow", config=config, dir=str(folder))


class Trackio(_Client):
    """Run in Trackio, which stores the run on this machine."""

    package = "trackio"

    def begin(self, folder: Path, config: dict[str, Any]) -> None:
        self.client.init(project=PROJECT, name=folder.name, resume="allow", config=config)


# Board and the package that it needs, for each value of `logger`.
BOARDS: dict[str, tuple[Callable[..., Board], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WeightsAndBiases, "wandb"),
    "trackio": (Trackio, "trackio"),
}


def check_board(name: str) -> None:
    """Raise UserError if the package of a board is not installed."""
    if name in BOARDS and importlib.util.find_spec(package := BOARDS[name][1]) is None:
        install = f"install it with .venv/bin/python -m pip install {package}"
        raise UserError(f"`logger` {name}: the package {package} is not installed", install, "use `logger tensorboard`")


def open_board(
    name: str, folder: Path, config: Mapping[str, Any], step: int, compared: tuple[str, ...]
) -> Board | None:
    """Open the board of a run that starts or resumes after `step`. Return None for the name "none".

    config: settings, shown with the run. compared: tags by which runs are compared.
    """
    plain = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()}
    return None if name == "none" else BOARDS[name][0](folder, plain, step, compared)
