"""The work of `inpaint`: hide a part of test images and sample it again. The other pixels do not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.diffusion.denoiser import Denoiser, with_labels
from models.diffusion.editing import inpaint, known_in_space, with_known
from models.diffusion.samplers import Step
from models.diffusion.times import Grid
from models.drawing import sheets
from models.errors import UserError
from models.generation import MANY_STEPS, Generated, Start
from models.randomness import derive_seed
from scripts.tasks.showing import Shown, rmse, write_numbers

if TYPE_CHECKING:
    from scripts.inpaint import InpaintFlags

HIDDEN_GREY = 128


def fill_test_images(flags: InpaintFlags) -> None:
    """Write picture and errors of the filled-in images into a folder, and print the folder's name. Raises UserError."""
    shown = Shown.open(flags.model, flags.sampling, flags.show, flags.labels, "inpainting", MANY_STEPS)
    shown.need_gaussian_noise("inpaint")
    known = read_mask(flags.mask, shown.model.space.image_shape[1:], flags.show.seed)
    images, labels, names = shown.test_images(flags.rows, flags.images)
    shown.check_scale(flags.show.scale, flags.samples + 2, len(images))
    with shown.folder("inpainting", Path(flags.mask).stem, flags) as folder:
        made = fill_in(shown, flags, images, known, labels)
        # An autoencoder reconstructs the known pixels with a small error, so the originals replace them.
        filled = torch.where(known, images.repeat_interleave(flags.samples, 0), made.images)
        write_numbers(folder, "errors", _errors(images, made.images, filled, known))
        masked = torch.where(known, images, torch.full_like(images, HIDDEN_GREY))
        headings = ["test image", "known part", *(f"sample {k + 1}" for k in range(flags.samples))]
        walks = f"{flags.resample} x every {flags.jump} steps" if flags.resample > 1 else "walked once"
        title = shown.title(f"inpainting, {Path(flags.mask).name} hidden, {walks}", made.nfe)

        def sheet(samples: Tensor, title: str) -> Image.Image:
            columns = [images, masked, *samples.unflatten(0, (-1, flags.samples)).unbind(1)]
            columns = [column[: len(samples) // flags.samples] for column in columns]
            return sheets.strip(columns, headings, title, names[: len(columns[0])], flags.show.scale)

        shown.save(sheet(filled, title), folder, "inpainting")
        if flags.show.animate:
            moments = zip(made.frame_times, made.frames, strict=True)
            film = [sheet(frame, f"{title}, t = {t:.2f}") for t, frame in moments]
            shown.animate([*film, sheet(filled[: len(made.frames[0])], title)], folder)


def read_mask(name: str, size: tuple[int, int], seed: int) -> Tensor:
    """Return a bool mask (H, W), True where pixels are known. Raises UserError.

    name: left, right, top, bottom, center, random, or an image file that is white where pixels are hidden.
    """
    height, width = size
    known = torch.ones(height, width, dtype=torch.bool)
    if name == "random":
        generator = torch.Generator().manual_seed(derive_seed(seed, "mask"))
        return torch.rand(height, width, generator=generator) < 0.5
    regions = {
        "left": (slice(None), slice(None, width // 2)),
        "right": (slice(None), slice(width // 2, None)),
        "top": (slice(None, height // 2), slice(None)),
        "bottom": (slice(height // 2, None), slice(None)),
        "center": (slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)),
    }
    if name in regions:
        known[regions[name]] = False
        return known
    try:
        with Image.open(name) as file:
            grey = np.asarray(file.convert("L"))
    except OSError:
        reason = "cannot be read as an image" if Path(name).is_file() else "no such file"
        choices = f"choose {', '.join((*regions, 'random'))}, or an image file"
        raise UserError(f"--mask {name}: {reason}; {choices}") from None
    if grey.shape != size:
        raise UserError(f"--mask {name}: {grey.shape[1]} x {grey.shape[0]} pixels; the images have {width} x {height}")
    known = torch.from_numpy(grey < 128)
    if bool(known.all()):
        raise UserError(f"--mask {name}: no pixel is white, so nothing is hidden; make the hidden part white")
    return known


def fill_in(shown: Shown, flags: InpaintFlags, images: Tensor, known: Tensor, labels: list[int]) -> Generated:
    """Return `flags.samples` samples of each uint8 image (N, C, H, W). Samples of one image are consecutive."""
    space, grid = shown.model.space, shown.grid

    def begin(denoiser: Denoiser, indices: range) -> Start:
        rows = torch.tensor(indices) // flags.samples
        clean = space.encode(images[rows].to(shown.model.device))
        mask = known_in_space(known, space.shape).to(shown.model.device)
        labelled = with_labels(denoiser, shown.labels([labels[row] for row in rows.tolist()]))
        filling = with_known(labelled, clean, mask)
        draw = shown.draw(indices)
        noise = draw(clean.shape)

        def walk(noisy: Tensor, stretch: Grid) -> Iterator[Step]:
            return shown.sampling.walk(filling, noisy, stretch, draw)

        return Start(noise, 1.0, None, inpaint(walk, noise, grid, draw, flags.resample, flags.jump))

    steps = shown.sampling.steps * flags.resample
    return shown.generate_from(begin, len(images) * flags.samples, steps, shown.frames)


def _errors(images: Tensor, decoded: Tensor, filled: Tensor, known: Tensor) -> dict[str, object]:
    """Return the errors on hidden pixels, and on known pixels before and after the originals replace them."""
    samples = len(filled) // len(images)
    truth = images.repeat_interleave(samples, 0)

    def known_rmse(made: Tensor) -> float:
        return rmse(made[..., known], truth[..., known]).mean().item() if bool(known.any()) else 0.0

    hidden = rmse(filled[..., ~known], truth[..., ~known]).unflatten(0, (-1, samples))
    made = filled[..., ~known].unflatten(0, (-1, samples))
    between = rmse(made[:, 1:].flatten(0, 1), made[:, :-1].flatten(0, 1)).mean().item() if samples > 1 else None
    return {
        "hidden_share": (~known).double().mean().item(),
        "known_rmse_before_putting_back": known_rmse(decoded),
        "known_rmse": known_rmse(filled),
        "hidden_rmse": hidden.mean().item(),
        "hidden_rmse_of_the_best_sample": hidden.min(1).values.mean().item(),
        "hidden_rmse_between_samples": between,
        "unit": "grey levels of 0..255",
    }
