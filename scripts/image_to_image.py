"""Add noise to test images up to a flow time and sample from there, to see which features the model keeps."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from models.errors import UserError
from models.ranges import PositiveInt, Range
from scripts.cli.command import run_command
from scripts.cli.flags import Labels, ModelFlags, SamplerFlags, StripFlags
from scripts.cli.settings import read_flags

DESCRIPTION = "Add noise to test images and sample from there. Prints the output folder."


@dataclass(frozen=True)
class ImageToImageFlags:
    """Settings of `image_to_image`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    strength: tuple[Annotated[float, Range(0, 1, open_low=True)], ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Flow times up to which noise is added, one column each. Near 0 keeps the image; 1 replaces it."""
    rows: PositiveInt | None = None
    """Number of test images. Default: 10, or all if there are fewer."""
    images: tuple[int, ...] | None = None
    """Indices of test images. Default: drawn with the seed, the classes in turn."""
    labels: Labels = None
    """Target classes, in turn, by name, number or range. Default: each image's true class."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[StripFlags] = field(default_factory=StripFlags)


def main(argv: list[str]) -> None:
    flags = read_flags(argv, ImageToImageFlags(), "image_to_image", DESCRIPTION)
    if not flags.strength:
        raise UserError("--strength: give one or more flow times above 0, up to 1")
    from scripts.tasks.partial_noise import sample_from_images

    sample_from_images(flags)


if __name__ == "__main__":
    run_command(main)
