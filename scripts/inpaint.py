"""Fill in a hidden part of test images with a trained model. The other pixels do not change."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field

import tyro

from models.ranges import PositiveInt
from scripts.cli.command import run_command
from scripts.cli.flags import Labels, ModelFlags, SamplerFlags, StripFlags
from scripts.cli.settings import read_flags

DESCRIPTION = "Fill in the hidden part of test images. Prints the output folder."


@dataclass(frozen=True)
class InpaintFlags:
    """Settings of `inpaint`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    mask: str = "right"
    """Hidden part: left, right, top, bottom, center, random (half of the pixels), or an image file that is
    white where hidden."""
    rows: PositiveInt | None = None
    """Number of test images. Default: 10, or all if there are fewer."""
    samples: PositiveInt = 5
    """Samples per test image."""
    images: tuple[int, ...] | None = None
    """Indices of test images. Default: drawn with the seed, the classes in turn."""
    labels: Labels = None
    """Classes to sample with, in turn, by name, number or range. Default: each image's true class."""
    resample: PositiveInt = 5
    """How often each group of steps is sampled, with noise added in between (RePaint). Higher values fit the visible
    part better, but take longer."""
    jump: PositiveInt = 5
    """Steps in a group that is repeated (see --resample)."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[StripFlags] = field(default_factory=StripFlags)


def main(argv: list[str]) -> None:
    flags = read_flags(argv, InpaintFlags(), "inpaint", DESCRIPTION)
    from scripts.tasks.inpainting import fill_test_images

    fill_test_images(flags)


if __name__ == "__main__":
    run_command(main)
