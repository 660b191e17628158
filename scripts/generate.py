"""Generate images with a trained run: samples.npz, pictures, and optionally animations and a PNG file of each image."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field
from typing import get_args

import tyro

from models.errors import UserError
from models.ranges import PositiveInt
from scripts.cli.command import quick_imports, run_command
from scripts.cli.flags import AnimationFormat, Labels, ModelFlags, PictureFormat, SamplerFlags, Scale
from scripts.cli.settings import read_flags

DESCRIPTION = "Generate images with a trained run. Prints the output folder."


@dataclass(frozen=True)
class GenerateFlags:
    """Settings of `generate`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    every_checkpoint: bool = False
    """Draw one sheet per checkpoint of the run, and a strip that shows how the first images change in training."""
    num_samples: PositiveInt = 80
    """Number of images."""
    labels: Labels = None
    """Classes to generate, in turn, by name, number or range, e.g. Bag 3 0-4. Default: all classes."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    seed: int = 0
    """Seed of the noise. The noise of an image depends only on seed and index."""
    batch_size: PositiveInt = 256
    """Images per batch."""
    save_images: bool = False
    """Also write each image as a PNG file, not enlarged."""
    sample_folders: bool = False
    """Also write a folder for each image, with enlarged pictures: the image, a strip and single steps of its reverse
    process, and with --animate an animation."""
    columns: PositiveInt | None = None
    """Images in a row of the sheet. Default: chosen so that each class has columns of its own, if that fits."""
    scale: Scale = None
    animate: bool = False
    """Also animate the sheet: the reverse process, or with --every_checkpoint the change during training."""
    format: PictureFormat = "png"
    """Format of the pictures."""
    animation_format: AnimationFormat = "webp"
    """Format of the animation."""
    out: str | None = None
    """Folder to write, new or empty. Default: a new one in samples/ in the run."""
    export: str | None = None
    """Export the run with one checkpoint to this folder, for use on any machine. No images are generated."""


def main(argv: list[str]) -> None:
    flags = read_flags(_respelled(argv), GenerateFlags(), "generate", DESCRIPTION)
    if flags.export is not None and (flags.every_checkpoint or flags.out is not None):
        raise UserError("--export packs one checkpoint and generates nothing: leave out --every_checkpoint and --out")
    for flag in ("save_images", "sample_folders"):
        if flags.every_checkpoint and getattr(flags, flag):
            raise UserError(f"--{flag}: --every_checkpoint writes no single images; leave one of the two out")
    with quick_imports():
        from scripts.tasks.generation import write_samples
    write_samples(flags)


def _respelled(argv: list[str]) -> list[str]:
    """Replace `--format gif` by `--animation_format gif`, and likewise webp. Both spellings are accepted."""
    words = list(argv)
    for index, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        value = value if equals else next(iter(argv[index + 1 :]), "")
        if flag == "--format" and value in get_args(AnimationFormat):
            words[index] = f"--animation_format{equals}{value if equals else ''}"
    return words


if __name__ == "__main__":
    run_command(main, parallel=True)
