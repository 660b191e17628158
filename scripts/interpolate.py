"""Interpolate between two noises, two test images (by their noises), or two classes."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from models.errors import UserError
from models.ranges import NonNegativeInt, PositiveInt, Range
from scripts.cli.command import run_command
from scripts.cli.flags import Labels, ModelFlags, SamplerFlags, StripFlags
from scripts.cli.settings import read_flags

DESCRIPTION = "Draw interpolations between images. Prints the output folder."


@dataclass(frozen=True)
class InterpolateFlags:
    """Settings of `interpolate`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    between: Literal["noises", "images", "classes"] = "noises"
    """Ends of a row: two noises of one class, the noises found for two test images, or two classes. With
    images, the clean estimate is never clipped."""
    rows: PositiveInt | None = None
    """Number of rows, one pair of ends each. Default: 10, or fewer if there are too few test images."""
    columns: Annotated[int, Range(2)] = 9
    """Images from one end to the other, both ends included."""
    labels: Labels = None
    """Names, numbers or ranges of classes. noises: the classes of the rows, in turn. classes: each row goes from one
    class of the list to the next. Default: all."""
    images: tuple[int, ...] | None = None
    """Indices of test images, two per row. Default: drawn with the seed."""
    refinements: NonNegativeInt = 4
    """Additional network evaluations per step from image to noise. With more, the noise is more accurate."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[StripFlags] = field(default_factory=StripFlags)


def main(argv: list[str]) -> None:
    flags = read_flags(argv, InterpolateFlags(), "interpolate", DESCRIPTION)
    if flags.between == "images":
        if flags.images is not None and (len(flags.images) % 2 or not flags.images):
            raise UserError(f"--images: {len(flags.images)} indices, must be two per row")
        if flags.sampling.sampler not in (None, "ddim", "euler") or flags.sampling.options.eta not in (None, 0):
            raise UserError("--between images inverts the sampler: use --sampler ddim or euler, and leave out --eta")
        if flags.labels is not None:
            raise UserError("--labels: --between images keeps the classes of the test images; leave it out")
    elif flags.images is not None:
        raise UserError("--images: only --between images uses test images")
    from scripts.tasks.interpolation import draw_interpolation

    draw_interpolation(flags)


if __name__ == "__main__":
    run_command(main)
