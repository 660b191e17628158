"""Test images with a part hidden, filled in by a model; the pixels that are known stay exactly as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from models.diffusion.denoiser import Denoiser, with_labels
from models.diffusion.editing import inpaint, known_in_space, with_known
from models.diffusion.samplers import Step
from models.diffusion.times import Grid
from models.drawing import sheets
from models.errors import UserError
from models.generation import Generated, Start
from models.randomness import derive_seed
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags
from scripts.tasks.showing import FILM_FRAMES, ShowFlags, Shown, rmse, write_numbers

MASKS = ("left", "right", "top", "bottom", "center", "random")
HIDDEN_GREY = 128
DESCRIPTION = "Fill in the hidden part of test images. Prints the folder of what it wrote."


@dataclass(frozen=True)
class InpaintFlags:
    """Settings of `inpaint`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    mask: str = "right"
    """What is hidden: the left, right, top or bottom half, the center, every second pixel at random, or the white of
    an image file of the same size."""
    rows: int = 8
    """How many test images."""
    samples: int = 5
    """How many ways to fill in each."""
    images: tuple[int, ...] | None = None
    """Numbers of test images. Default: drawn by the seed, the classes in turn."""
    labels: tuple[int, ...] | None = None
    """Classes to fill in as, in turn. Default: each image's own."""
    resample: int = 5
    """How often each stretch of steps is walked, with fresh noise in between; 1 is quick and less in harmony."""
    jump: int = 5
    """Steps in a stretch."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[ShowFlags] = field(default_factory=ShowFlags)


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, InpaintFlags(), "inpaint", DESCRIPTION)
    check_positive(flags, "rows", "samples", "resample", "jump")
    shown = Shown.open(flags.model, flags.sampling, flags.show)
    shown.need_gaussian_noise("inpaint")
    known = read_mask(flags.mask, shown.model.space.image_shape[1:], flags.show.seed)
    images, labels, names = shown.test_images(flags.rows, flags.images, flags.labels)
    with shown.folder("inpainting", Path(flags.mask).stem, flags) as folder:
        made = fill_in(shown, flags, images, known, labels)
        # A space that is not made of pixels brings the known ones back with a small error: they are put back.
        filled = torch.where(known, images.repeat_interleave(flags.samples, 0), made.images)
        write_numbers(folder, "errors", _errors(images, made.images, filled, known))
        _draw(shown, flags, images, filled, made, known, names, folder)


def read_mask(name: str, size: tuple[int, int], seed: int) -> Tensor:
    """Bool (H, W), True where pixels are known. Raises UserError for a mask that is no mask."""
    height, width = size
    known = torch.ones(height, width, dtype=torch.bool)
    if name == "random":
        generator = torch.Generator().manual_seed(derive_seed(seed, "mask"))
        return torch.rand(height, width, generator=generator) < 0.5
    places = {
        "left": (slice(None), slice(None, width // 2)),
        "right": (slice(None), slice(width // 2, None)),
        "top": (slice(None, height // 2), slice(None)),
        "bottom": (slice(height // 2, None), slice(None)),
        "center": (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
    }
    if name in places:
        known[places[name]] = False
        return known
    try:
        with Image.open(name) as file:
            drawn = np.asarray(file.convert("L"))
    except OSError:
        raise UserError(f"--mask {name}: choose {', '.join(MASKS)}, or an image file") from None
    if drawn.shape != size:
        found = f"{drawn.shape[1]} x {drawn.shape[0]}"
        raise UserError(f"--mask {name} has {found} pixels: the images have {width} x {height}")
    known = torch.from_numpy(drawn < 128)
    if bool(known.all()):
        raise UserError(f"--mask {name} hides nothing: paint white what is to be filled in")
    return known


def fill_in(shown: Shown, flags: InpaintFlags, images: Tensor, known: Tensor, labels: list[int]) -> Generated:
    """`samples` ways to fill in each of the uint8 images (N, C, H, W), in a row."""
    space, grid = shown.model.space, shown.grid
    count = len(images) * flags.samples

    def begin(denoiser: Denoiser, indices: range) -> Start:
        row = torch.tensor(indices) // flags.samples
        clean = space.encode(images[row].to(shown.model.device))
        mask = known_in_space(known, space.shape).to(shown.model.device)
        labelled = with_labels(denoiser, shown.labels([labels[k] for k in row.tolist()]))
        filling = with_known(labelled, clean, mask)
        draw = shown.draw(indices)
        noise = draw(clean.shape)

        def walk(noisy: Tensor, stretch: Grid) -> Iterator[Step]:
            return shown.sampling.walk(filling, noisy, stretch, draw)

        return Start(noise, 1.0, None, inpaint(walk, noise, grid, draw, flags.resample, flags.jump))

    frames = FILM_FRAMES if flags.show.animate else 0
    return shown.generate_from(begin, count, shown.sampling.steps * flags.resample, frames)


def _errors(images: Tensor, decoded: Tensor, filled: Tensor, known: Tensor) -> dict[str, object]:
    """On known pixels before they are put back, and on hidden ones; the best of the samples, and the mean image."""
    samples = len(filled) // len(images)
    truth = images.repeat_interleave(samples, 0)
    hidden = rmse(filled[..., ~known], truth[..., ~known]).unflatten(0, (-1, samples))
    kept = rmse(decoded[..., known], truth[..., known]).mean().item() if bool(known.any()) else 0.0
    return {
        "hidden_share": (~known).double().mean().item(),
        "known_rmse_before_putting_back": kept,
        "known_rmse": rmse(filled[..., known], truth[..., known]).mean().item() if bool(known.any()) else 0.0,
        "hidden_rmse": hidden.mean().item(),
        "hidden_rmse_of_the_best_sample": hidden.min(1).values.mean().item(),
        "hidden_rmse_between_samples": _between(filled[..., ~known].unflatten(0, (-1, samples))),
        "unit": "grey levels of 0..255",
    }


def _between(filled: Tensor) -> float | None:
    """The mean difference of one sample (R, S, ...) from the next of the same image; None for single samples."""
    if filled.shape[1] < 2:
        return None
    return rmse(filled[:, 1:].flatten(0, 1), filled[:, :-1].flatten(0, 1)).mean().item()


def _draw(
    shown: Shown,
    flags: InpaintFlags,
    images: Tensor,
    filled: Tensor,
    made: Generated,
    known: Tensor,
    names: list[str],
    folder: Path,
) -> None:
    samples = flags.samples
    masked = torch.where(known, images, torch.full_like(images, HIDDEN_GREY))
    headings = ["test image", "what is known", *(f"sample {k + 1}" for k in range(samples))]
    how = f"inpainting, {Path(flags.mask).name} hidden, "
    how += f"{flags.resample} x every {flags.jump} steps" if flags.resample > 1 else "walked once"

    def sheet(each: Tensor, title: str):
        columns = [images, masked, *each.unflatten(0, (-1, samples)).unbind(1)]
        columns = [column[: len(each) // samples] for column in columns]
        return sheets.strip(columns, headings, title=title, row_titles=names[: len(columns[0])])

    title = shown.title(how, made.nfe)
    shown.save(sheet(filled, title), folder, "inpainting")
    if flags.show.animate:
        film = [sheet(frame, f"{title}, t = {t:.2f}") for t, frame in zip(made.frame_times, made.frames, strict=True)]
        shown.animate([*film, sheet(filled[: len(made.frames[0])], title)], folder)


if __name__ == "__main__":
    run_command(main)
