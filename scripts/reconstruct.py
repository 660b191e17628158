"""Reconstruct images with an autoencoder: originals and reconstructions, errors, and statistics of the latents."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass
from typing import Literal

from models.ranges import PositiveInt
from scripts.cli.command import run_command
from scripts.cli.flags import CodingFlags, PictureFormat, Scale
from scripts.cli.settings import read_coding

DESCRIPTION = "Reconstruct test images with an autoencoder. Prints the output folder."


@dataclass(frozen=True)
class ReconstructFlags(CodingFlags):
    """Settings of `reconstruct`."""

    weights: Literal["ema", "raw"] = "ema"
    """EMA or raw weights."""
    height: PositiveInt = 8
    """Rows of the picture."""
    width: PositiveInt = 8
    """Images in a row of the picture, each beside its reconstruction."""
    scale: Scale = None
    image: tuple[str, ...] = ()
    """Image files to reconstruct instead of the test split. They must have the autoencoder's image size."""
    format: PictureFormat = "png"
    """Format of the picture."""
    out: str | None = None
    """Folder to write, new or empty. Default: a new one in reconstructions/ in the run."""


def main(argv: list[str]) -> None:
    flags = read_coding(argv, ReconstructFlags(), "reconstruct", DESCRIPTION)
    from scripts.tasks.reconstruction import reconstruct

    reconstruct(flags)


if __name__ == "__main__":
    run_command(main)
