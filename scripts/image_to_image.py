"""Noise test images up to some time and sample from there: what a model keeps of them, and what it replaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from models.errors import UserError
from models.ranges import PositiveInt, Range
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags, ShowFlags

DESCRIPTION = "Sample from test images under partial noise. Prints the folder of what it wrote."


@dataclass(frozen=True)
class ImageToImageFlags:
    """Settings of `image_to_image`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    strength: tuple[Annotated[float, Range(0, 1, open_low=True)], ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Flow times up to which images are noised, one column each. Near 0 the image is kept, at 1 it is lost."""
    rows: PositiveInt = 8
    """Number of test images."""
    images: tuple[int, ...] | None = None
    """Numbers of test images. Default: drawn by the seed, the classes in turn."""
    labels: tuple[int, ...] | None = None
    """Classes to turn the images into, in turn. Default: each image's own."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[ShowFlags] = field(default_factory=ShowFlags)


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ImageToImageFlags(), "image_to_image", DESCRIPTION)
    if not flags.strength:
        raise UserError("--strength: give one or more flow times above 0, up to 1")
    from scripts.tasks.partial_noise import sample_from_images

    sample_from_images(flags)


if __name__ == "__main__":
    run_command(main)
