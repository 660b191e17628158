"""Draw real and generated images on one map, coloured by class and by source. Measure how well they mix."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from models.errors import UserError
from models.evaluation.maps import METHODS
from models.ranges import PositiveInt, Range
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags, ShowFlags, one_of
from scripts.cli.settings import read_flags

DESCRIPTION = "Draw real and generated images on one map. Prints the output folder."


@dataclass(frozen=True)
class DistributionFlags:
    """Settings of `visualize_distribution`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    method: Annotated[str, one_of(METHODS)] = "umap"
    """Method that reduces the features to two dimensions."""
    features: Literal["pixels", "latents", "classifier"] = "pixels"
    """Features to compare: pixels, the latents that the network takes, or the last hidden layer of a classifier."""
    num_samples: PositiveInt = 1000
    """Number of generated images, and of test images. Both sets have the same number of images per class."""
    k: PositiveInt = 5
    """Number of nearest neighbours for mixing, density and coverage."""
    neighbours: Annotated[int, Range(2)] = 15
    """Number of neighbours of UMAP. More keep large-scale structure; fewer keep details."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[ShowFlags] = field(default_factory=ShowFlags)


def main(argv: list[str]) -> None:
    flags = read_flags(argv, DistributionFlags(), "visualize_distribution", DESCRIPTION)
    if flags.method not in METHODS:
        raise UserError(f"`method` {flags.method}: choose {' or '.join(METHODS)}")
    if flags.show.seed < 0:  # UMAP takes no negative seed.
        raise UserError(f"`seed` {flags.show.seed}: must be at least 0")
    from scripts.tasks.distribution import draw_distribution

    draw_distribution(flags)


if __name__ == "__main__":
    run_command(main)
