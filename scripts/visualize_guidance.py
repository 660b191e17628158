"""Compare guidance scales: a picture of classes by scales, and a plot of accuracy and diversity by scale."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field

import tyro

from models.errors import UserError
from models.ranges import PositiveInt
from scripts.cli.command import run_command
from scripts.cli.flags import Labels, ModelFlags, SamplerFlags, StripFlags
from scripts.cli.settings import read_flags

DESCRIPTION = "Draw guidance scales side by side. Prints the output folder."


@dataclass(frozen=True)
class GuidanceFlags:
    """Settings of `visualize_guidance`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    scales: tuple[float, ...] = (0.0, 1.0, 1.5, 2.0, 4.0, 8.0)
    """Guidance scales, one column each: 0 is unconditional, 1 conditional, more is guided."""
    labels: Labels = None
    """Classes, one row each: names, numbers or ranges. Default: all."""
    shown: PositiveInt = 4
    """Images in a cell of the picture. Images in the same row start from the same noise."""
    samples_per_class: PositiveInt = 25
    """Images per class and scale for the measurement of accuracy and diversity."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[StripFlags] = field(default_factory=StripFlags)


def main(argv: list[str]) -> None:
    flags = read_flags(argv, GuidanceFlags(), "visualize_guidance", DESCRIPTION)
    if not flags.scales:
        raise UserError("`scales`: name one or more")
    if flags.sampling.guidance_scale != 1:
        raise UserError(f"`guidance_scale` {flags.sampling.guidance_scale:g}: leave it out", "set `scales`")
    if flags.sampling.autoguidance is not None:
        raise UserError("`autoguidance`: the scales compared are those of classifier-free guidance", "leave it out")
    if flags.shown > flags.samples_per_class:
        raise UserError(f"`shown` {flags.shown}: must be at most `samples_per_class` {flags.samples_per_class}")
    from scripts.tasks.guidance import compare_scales

    compare_scales(flags)


if __name__ == "__main__":
    run_command(main)
